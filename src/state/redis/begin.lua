-- Claims a write. ARGV: its fields, each after its name, and its `term` in milliseconds. A write
-- that is sent immediately also has `by` in milliseconds and `record`. Returns 'claimed' or 'sent'
-- with id and fence, 'other', 'known' with the write, 'unreadable', or 'quiet' with the rest of the
-- quiet period.
local new, time = named(ARGV), now()
local id = new.write_id
if new.request_id ~= '' then
  id = known_write(new) or id
end

local write = write_at(id, time)
if not write then
  if quiet_left(time) > 0 then
    return { 'quiet', '', quiet_left(time), false }
  end
  id = new.write_id
  add_write(new, 1, time)
  if new.by then
    send_write(id, new, time)
    return { 'sent', id, 1, false }
  end
elseif not write.whole then
  return { 'unreadable', '', 0, false }
elseif write.fingerprint ~= new.fingerprint then
  return { 'other', '', 0, false }
-- The request was repeated, and the repeated one has sent nothing yet.
elseif write.state == 'sent' and new.by and id == new.write_id then
  call('HSET', write_key(id), 'over', time + tonumber(new.by))
  return { 'sent', id, write.fence, false }
elseif write.state ~= 'claimed' or (write.rest > 0 and id ~= new.write_id) then
  return { 'known', '', 0, write_row(write) }
elseif id ~= new.write_id then
  if quiet_left(time) > 0 then
    return { 'quiet', '', quiet_left(time), false }
  end
  call('HSET', write_key(id), 'fence', math.max(tonumber(write.fence), BASE) + 1)
end
local over = time + tonumber(new.term)
call('HSET', write_key(id), 'over', over)
call('ZADD', CLAIMS, over, id)
return { 'claimed', id, call('HGET', write_key(id), 'fence'), false }
