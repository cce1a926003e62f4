-- Claims a write. ARGV: its fields, each after its name, and its `term` in milliseconds. Answers what
-- became of that: 'claimed' with id and fence, 'other', or 'known' with the write.
local new, time = named(ARGV), now()
local id = new.write_id
if new.request_id ~= '' then
  id = call('GET', request_key(new.app_id, new.method, new.request_id)) or id
end

local write = write_at(id, time)
if not write then
  local number = call('INCR', LAST_WRITE)
  call('HSET', write_key(id), 'number', number, 'app_id', new.app_id, 'method', new.method,
    'request_id', new.request_id, 'fingerprint', new.fingerprint,
    'client_reference', new.client_reference, 'state', 'claimed', 'attempts', 0, 'sought', '',
    'created', time, 'sent', 0, 'ended', 0)
  call('ZADD', WRITES, number, id)
  call('ZADD', UNFINISHED, number, id)
  if new.request_id ~= '' then
    call('SET', request_key(new.app_id, new.method, new.request_id), id)
    call('ZADD', requests_key(new.request_id), number, id)
  end
elseif write.fingerprint ~= new.fingerprint then
  return { 'other', '', 0, false }
-- Nobody but the one who has it knows one without a name: it is asked for again.
elseif write.state ~= 'claimed' or (write.rest > 0 and write.request_id ~= '') then
  return { 'known', '', 0, written(write) }
end
local over = time + tonumber(new.term)
call('HSET', write_key(id), 'over', over)
call('ZADD', CLAIMS, over, id)
return { 'claimed', id, call('HINCRBY', write_key(id), 'fence', 1), false }
