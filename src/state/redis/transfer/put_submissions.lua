-- Stores submissions. Of two for one review the later one gets its events, as if both had been remembered here.
for new in rows() do
  local id, number = new.submission_id, new.number
  call('HSET', submission_key(id), 'number', number, 'message', new.message, 'created', new.created,
    'app_id', new.app_id, 'kind', new.kind, 'audit_id', new.audit_id, 'poi_id', new.poi_id,
    'client_reference', new.client_reference, 'state', new.state, 'reason', new.reason,
    'map_poi_id', new.map_poi_id, 'event_id', new.event_id, 'settled', new.settled)
  call('ZADD', ALL, number, id)
  if new.settled == '0' then
    call('ZADD', OPEN, number, id)
    if new.ask_at ~= '0' then
      call('ZADD', DUE, new.ask_at, id)
    end
  else
    call('ZADD', DECIDED, new.settled, id)
  end
  if new.kind == PICTURES and new.poi_id ~= '' then
    call('ZADD', pictures_key(new.app_id, new.poi_id), number, id)
  end
  if new.client_reference ~= '' then
    call('ZADD', reference_key(new.client_reference), number, id)
  end
  local nameless, review = new.audit_id == '' and nameless_key(new), review_of(new)
  if nameless then
    call('ZADD', nameless, number, id)
  end
  if review then
    call('HSET', review_key(review), 'submission', id)
  end
end
return 1
