-- Notes which Redis the state is at. If that is another than before, what others know of may be missing
-- here: nobody begins anything for ARGV[1] milliseconds. Answers whether that is so.
local era, its_server, quiet = unpack(redis.call('HMGET', GUARD, 'era', 'server', 'quiet'))
local this = server()
if not era or this == '' or this == its_server then
  return 0
end
redis.call('HSET', GUARD, 'server', this,
  'quiet', math.max(tonumber(quiet or 0), time + tonumber(ARGV[1])))
return 1
