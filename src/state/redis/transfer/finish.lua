-- Ends a copy: a gateway can use it from now on. ARGV: the era of the run, its name, and the schema. Returns
-- whether this run had the copy.
local era, me, schema = unpack(ARGV)
if redis.call('HGET', GUARD, 'era') ~= era then
  return 0
end
redis.call('HDEL', GUARD, me)
redis.call('DEL', KEYS[1] .. 'copy')
redis.call('SET', KEYS[1] .. 'schema', schema)
return 1
