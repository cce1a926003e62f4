-- Returns at most ARGV[2] open submissions that are due. They are due again after ARGV[1]
-- milliseconds.
local time = now()
local due = {}
for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', time, 'LIMIT', 0, ARGV[2])) do
  call('ZADD', DUE, time + tonumber(ARGV[1]), id)
  due[#due + 1] = submission(id)
end
return due
