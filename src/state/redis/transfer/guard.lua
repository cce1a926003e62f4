-- Returns what a command must know before it reads a state: its schema, era, changes, the milliseconds since a process
-- was last seen or -1, the time, the base, and the source and the progress of an unfinished copy.
local its = {}
local fields = redis.call('HGETALL', GUARD)
local last
for i = 1, #fields, 2 do
  its[fields[i]] = fields[i + 1]
  if fields[i]:find('^at:') then
    last = math.max(last or 0, tonumber(fields[i + 1]) or 0)
  end
end
return { redis.call('GET', KEYS[1] .. 'schema') or '', its.era or '', its.steps or '0',
  last and math.max(time - last, 0) or -1, time, its.base or '0',
  redis.call('HMGET', KEYS[1] .. 'copy', 'place', 'at') }
