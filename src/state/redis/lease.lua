-- Acquires, renews, frees or restores the lease ARGV[2]. ARGV[3] is the term or the pause in
-- milliseconds, and ARGV[4] the fence. For a restored lease, ARGV[5] is 1 if it is held. The hash
-- never expires, because a fence must not be used twice.
local action, name, span, fence = unpack(ARGV)
local lease, time = key('lease', name), now()
-- `held` is the fence of the holder, or empty during the pause.
local last, held, over = unpack(call('HMGET', lease, 'fence', 'held', 'over'))
-- A damaged value counts as absent.
last = tonumber(last or 0) or 0
local left = (tonumber(over or 0) or 0) - time

if action == 'restore' then
  if last <= tonumber(fence) then
    call('HSET', lease, 'fence', fence, 'held', ARGV[5] == '1' and fence or '',
      'over', time + tonumber(span))
  end
  return { 0, 0 }
end
if action == 'acquire' then
  left = math.max(left, quiet_left(time))
  if left > 0 then
    return { 0, left }
  end
  fence = math.max(last, BASE) + 1
  call('HSET', lease, 'fence', fence, 'held', fence, 'over', time + tonumber(span))
  return { fence, 0 }
end
if held ~= fence or left <= 0 then
  return { 0, 0 }
end
call('HSET', lease, 'held', action == 'renew' and fence or '', 'over', time + tonumber(span))
return { tonumber(fence), 0 }
