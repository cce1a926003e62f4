-- Increments the counter ARGV[1] if it is below ARGV[2]. The counter restarts ARGV[3] milliseconds
-- after it began.
local counter = key('spent', ARGV[1])
call('SET', counter, 0, 'NX', 'PX', ARGV[3])
if tonumber(call('GET', counter)) >= tonumber(ARGV[2]) then
  return 0
end
call('INCR', counter)
return 1
