-- Increments the counter ARGV[1] if it is below ARGV[2]. The counter restarts ARGV[3] milliseconds
-- after it began.
local counter = key('spent', ARGV[1])
call('SET', counter, 0, 'NX', 'PX', ARGV[3])
local spent = tonumber(call('GET', counter))
if not spent then
  -- A damaged counter starts again.
  spent = 0
  call('SET', counter, spent, 'PX', ARGV[3])
end
if spent >= tonumber(ARGV[2]) then
  return 0
end
call('INCR', counter)
return 1
