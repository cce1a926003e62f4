-- Acquires, renews, frees or, after a loss, notes anew the lease ARGV[2]. ARGV[3] is the term or rest
-- in milliseconds, ARGV[4] the fence; of one that is noted anew ARGV[5] is 1 if it is held. What is kept
-- never expires, for no fence may come twice.
local verb, name, span, fence = unpack(ARGV)
local lease, time = key('lease', name), now()
-- `held` is the fence of its holder, empty while it rests.
local last, held, over = unpack(call('HMGET', lease, 'fence', 'held', 'over'))
local left = tonumber(over or 0) - time

if verb == 'note' then
  if tonumber(last or 0) <= tonumber(fence) then
    call('HSET', lease, 'fence', fence, 'held', ARGV[5] == '1' and fence or '',
      'over', time + tonumber(span))
  end
  return { 0, 0 }
end
if verb == 'acquire' then
  left = math.max(left, quiet_left(time))
  if left > 0 then
    return { 0, left }
  end
  fence = math.max(tonumber(last or 0), BASE) + 1
  call('HSET', lease, 'fence', fence, 'held', fence, 'over', time + tonumber(span))
  return { fence, 0 }
end
if held ~= fence or left <= 0 then
  return { 0, 0 }
end
call('HSET', lease, 'held', verb == 'renew' and fence or '', 'over', time + tonumber(span))
return { tonumber(fence), 0 }
