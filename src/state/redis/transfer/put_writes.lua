-- Stores writes.
for new in rows() do
  local id, number = new.write_id, new.number
  call('HSET', write_key(id), 'number', number, 'app_id', new.app_id, 'method', new.method,
    'request_id', new.request_id, 'fingerprint', new.fingerprint, 'caller', new.caller,
    'client_reference', new.client_reference, 'state', new.state, 'fence', new.fence,
    'attempts', new.attempts, 'sought', new.sought, 'created', new.created, 'sent', new.sent,
    'ended', new.ended, 'over', new['until'])
  call('ZADD', WRITES, number, id)
  if new.state == 'finished' then
    call('HSET', write_key(id), 'reply', new.reply)
    call('ZADD', FINISHED, new.ended, id)
  else
    call('ZADD', UNFINISHED, number, id)
  end
  if new.state == 'claimed' then
    call('ZADD', CLAIMS, new['until'], id)
  end
  if new.request_id ~= '' then
    call('SET', request_key(new), id)
    call('ZADD', requests_key(new.request_id), number, id)
  end
end
return 1
