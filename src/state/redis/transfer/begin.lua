-- Begins or continues a copy to this place. ARGV: the schema of an unfinished copy, an era for this run, the
-- id of the source, its place, and 1 to begin anew. Returns { what, progress or place, time of the beginning }.
--
-- The hash `copy` has the source's `id` and `place`, the progress `at`, and the time `began`. It lives until
-- the copy is complete. Each run has an era of its own, so the scripts of an earlier run change nothing.
local unfinished, era, id, place, anew = unpack(ARGV)
local SCHEMA, COPY = KEYS[1] .. 'schema', KEYS[1] .. 'copy'
local schema = redis.call('GET', SCHEMA)
local its_id, its_place, at, began = unpack(redis.call('HMGET', COPY, 'id', 'place', 'at', 'began'))

if schema == unfinished and its_id then
  if anew == '1' then
    return { 'anew', '', 0 }
  end
  if its_id ~= id then
    return { 'other', its_place, 0 }
  end
  redis.call('HSET', GUARD, 'era', era)
  return { 'at', at, tonumber(began) }
end
if schema or redis.call('EXISTS', GUARD, KEYS[1] .. 'log', KEYS[1] .. 'log:last', KEYS[1] .. 'epoch') > 0 then
  return { 'taken', '', 0 }
end
redis.call('SET', SCHEMA, unfinished)
redis.call('HSET', COPY, 'id', id, 'place', place, 'at', '', 'began', time)
-- All later fences and generations exceed those of the source, because there is less than one per millisecond.
redis.call('HSET', GUARD, 'era', era, 'base', time, 'server', server())
return { 'at', '', time }
