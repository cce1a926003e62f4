-- Agrees on the era of the state. KEYS[1] is the prefix of all keys. ARGV: the schema that the
-- process knows, its name, an era for a new state, and the quiet period after a loss in
-- milliseconds. Then the era that it knew or an empty text, the number of changes that it saw, and
-- the number of its own changes.
--
-- Returns { what, era, steps, own }. `what` is 'newer' (with the schema in place of the era),
-- 'new', 'same', 'joined' or 'behind' (with the steps of the state that was found).
--
-- GUARD holds the `era` of the state, the previous era `from`, and the number of changes `steps`.
-- For each process `p:…` it holds the number of its changes, and in `at:p:…` when it was last seen.
-- `server` is the identity of the Redis, `quiet` the end of the quiet period, and `base` a number
-- that all later fences and generations exceed.
local schema, me, fresh, silence, known, seen, seen_own = unpack(ARGV)
local SCHEMA = KEYS[1] .. 'schema'
local GONE = 7 * 24 * 60 * 60 * 1000 -- after this time, a process is considered gone

local found = redis.call('GET', SCHEMA)
if found and tonumber(found) > tonumber(schema) then
  return { 'newer', found, 0, 0 }
end

local its = {}
local fields = redis.call('HGETALL', GUARD)
for i = 1, #fields, 2 do
  its[fields[i]] = fields[i + 1]
end
local steps, own = tonumber(its.steps or 0), tonumber(its[me] or 0)

-- Records that data was lost that a process knew of.
local function lose()
  redis.call('HSET', GUARD, 'quiet', time + tonumber(silence),
    'base', math.max(time, tonumber(its.base or 0) + 1))
end

local what
if not its.era then
  what = 'new'
  redis.call('HSET', GUARD, 'era', fresh, 'from', known, 'server', server())
  if known ~= '' then
    lose()
  end
elseif known == '' then
  what, fresh = 'joined', its.era
elseif known ~= its.era then
  what, fresh = 'joined', its.era
  -- The process that began it may not have known of the loss.
  if its.from ~= known then
    redis.call('HSET', GUARD, 'from', known)
    lose()
  end
elseif steps < tonumber(seen) or own < tonumber(seen_own) then
  what = 'behind'
  redis.call('HSET', GUARD, 'era', fresh, 'from', known)
  lose()
else
  return { 'same', known, steps, own }
end

if not found then
  redis.call('SET', SCHEMA, schema)
end
if its['at:' .. me] == nil or what ~= 'joined' then
  redis.call('HSET', GUARD, 'at:' .. me, time)
end
for name, at in pairs(its) do
  local process = name:match('^at:(.*)')
  if process and tonumber(at) < time - GONE then
    redis.call('HDEL', GUARD, name, process)
  end
end
return { what, fresh, steps, own }
