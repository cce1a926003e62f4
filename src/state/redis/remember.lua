-- Remembers a submission. ARGV: its fields, each after its name; of them `open`, and `ask_after` in
-- milliseconds or empty, are not its own.
local new = named(ARGV)
local id = new.submission_id
if call('EXISTS', submission_key(id)) == 1 then
  return
end

local time = now()
local number = call('INCR', LAST_NUMBER)
call('HSET', submission_key(id), 'number', number, 'message', new.message, 'created', time,
  'app_id', new.app_id, 'kind', new.kind, 'audit_id', new.audit_id, 'poi_id', new.poi_id,
  'client_reference', new.client_reference, 'state', new.state, 'reason', '', 'map_poi_id', '',
  'event_id', '', 'settled', new.open == '1' and 0 or time)
call('ZADD', ALL, number, id)
if new.open == '1' then
  call('ZADD', OPEN, number, id)
  if new.ask_after ~= '' then
    call('ZADD', DUE, time + tonumber(new.ask_after), id)
  end
else
  -- Nothing will settle it: it is kept as long as if that happened now.
  call('ZADD', SETTLED, time, id)
end
if new.kind == PICTURES and new.poi_id ~= '' then
  call('ZADD', pictures_key(new.app_id, new.poi_id), number, id)
end
if new.client_reference ~= '' then
  call('ZADD', reference_key(new.client_reference), number, id)
end
local nameless = new.audit_id == '' and nameless_key(new)
if nameless then
  call('ZADD', nameless, number, id)
end

local review = review_of(new)
if review then
  claim(review, id, time)
end
