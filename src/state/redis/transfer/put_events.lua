-- Stores events. They have `decides`, and `damaged` if a copy of them must be damaged, too. Their submissions are
-- stored already.
for event in rows() do
  local position, id, review = event.position, event.submission, review_of(event)
  local entry = {}
  for _, name in ipairs(EVENT_FIELDS) do
    entry[#entry + 1], entry[#entry + 2] = name, event[name]
  end
  entry[#entry + 1] = 'sum'
  entry[#entry + 1] = event.damaged == '1' and 'damaged' or event_sum(position, event)
  call('XADD', LOG, position .. '-0', unpack(entry))
  call('HSET', POSITIONS, event.key, position)
  if id ~= '' then
    call('ZADD', events_key(id), position, position)
  elseif review then
    call('ZADD', unclaimed_key(review), position, position)
  end
  if event.decides == '1' and review then
    local other = result(review_key(review))
    if not other or beats(event, other) then
      call('HSET', review_key(review), 'position', position)
    end
  end
  if id ~= '' and call('HGET', submission_key(id), 'event_id') == event.event_id then
    call('HSET', submission_key(id), 'position', position)
  end
end
return 1
