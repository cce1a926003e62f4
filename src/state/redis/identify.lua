-- A replica would serve reads from an older state.
local role = redis.pcall('INFO', 'replication')
if type(role) == 'string' and role:find('role:slave', 1, true) then
  return redis.error_reply('READONLY This server is a replica.')
end

-- Records the identity of the Redis. If it changed, data that other processes know of may be
-- missing here, so a quiet period of ARGV[1] milliseconds begins. Returns 1 if it changed.
local era, its_server, quiet = unpack(redis.call('HMGET', GUARD, 'era', 'server', 'quiet'))
local this = server()
if not era or this == '' or this == its_server then
  return 0
end
redis.call('HSET', GUARD, 'server', this,
  'quiet', math.max(tonumber(quiet or 0), time + tonumber(ARGV[1])))
return 1
