-- Acquires, renews or frees the lease ARGV[2]. ARGV[3] is the term or rest in milliseconds, ARGV[4]
-- the fence. What is kept never expires, for no fence may come twice.
local verb, name, span, fence = unpack(ARGV)
local lease, time = key('lease', name), now()
-- `held` is the fence of its holder, empty while it rests.
local last, held, over = unpack(call('HMGET', lease, 'fence', 'held', 'over'))
local left = tonumber(over or 0) - time

if verb == 'acquire' then
  if left > 0 then
    return { 0, left }
  end
  fence = tonumber(last or 0) + 1
  call('HSET', lease, 'fence', fence, 'held', fence, 'over', time + tonumber(span))
  return { fence, 0 }
end
if held ~= fence or left <= 0 then
  return { 0, 0 }
end
call('HSET', lease, 'held', verb == 'renew' and fence or '', 'over', time + tonumber(span))
return { tonumber(fence), 0 }
