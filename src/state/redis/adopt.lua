-- Agrees on which state this is. KEYS[1] is what all keys begin with. ARGV: the schema that the process
-- knows, what it is called, an era for a new state, for how long nobody begins anything after a loss,
-- in milliseconds; which era it knew, if any, how often it saw that change, and how often by itself.
--
-- Answers { what, era, steps, own }, where `what` is 'newer', with the schema for an era, 'new', 'same',
-- 'joined', or 'behind', where the steps are those of what was found.
--
-- GUARD holds the `era` of the state, the one that it followed, `from`, how often it was changed,
-- `steps`, and by each process, `p:…`, which was there `at:p:…`; the `server` that it is at; until when
-- nobody begins anything, `quiet`, and what all fences and generations since the last loss are higher
-- than, `base`.
local schema, me, fresh, silence, known, seen, seen_own = unpack(ARGV)
local SCHEMA = KEYS[1] .. 'schema'
local GONE = 7 * 24 * 60 * 60 * 1000 -- a process that was not there for so long

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

-- Something was lost that a process knew of.
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
  -- Whoever began it may not have known of a loss.
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
