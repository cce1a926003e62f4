-- What every script begins with. KEYS[1] is what all keys begin with: its hash tag keeps them in
-- one slot of a cluster, so that scripts may make up the rest. A script either happens or does not:
-- Redis runs one at a time, and writes down what it did as one transaction.

local call = redis.call

local function key(...)
  return KEYS[1] .. table.concat({ ... }, ':')
end

local LOG = key('log')                 -- the stream of events; an entry's id is <position>-0
local LAST = key('log', 'last')        -- the newest position
local POSITIONS = key('log', 'keys')   -- where the event with a key stands
local LATE = key('log', 'late')        -- position -> submission that was remembered after the event
local PRUNED = key('log', 'pruned')    -- position and key of the last event that is gone
local ALL = key('submissions')         -- submissions by number
local OPEN = key('submissions', 'open')       -- those of them that are open
local DUE = key('submissions', 'due')         -- open ones by when they are to be asked about
local SETTLED = key('submissions', 'settled') -- the others by when they were settled

local PUSHED, MERCHANT, PICTURES, UNSPECIFIED = '', '1', '4', '0'

-- Milliseconds since 1970.
local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A list of names and values as a table.
local function named(list)
  local fields = {}
  for i = 1, #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

-- The event at a position, if it is still kept.
local function event_at(position)
  local id = position .. '-0'
  local entry = call('XRANGE', LOG, id, id)[1]
  return entry and named(entry[2])
end

-- Names the review that something is about, if it says which.
local function review_of(about)
  return about.kind ~= UNSPECIFIED and about.audit_id ~= ''
    and table.concat({ about.kind, about.app_id, about.audit_id }, ':')
end

-- Of a review: its submission, and the position of the result that counts.
local function review_key(review)
  return key('review', review)
end

-- The positions of what came about a review before its submission was known.
local function unclaimed_key(review)
  return key('unclaimed', review)
end

local function submission_key(id)
  return key('submission', id)
end

-- The positions of a submission's events.
local function events_key(id)
  return key('events', id)
end

-- An account's submissions for a merchant that have no audit id yet, by number.
local function nameless_key(app_id)
  return key('nameless', app_id)
end

-- The newest submission of pictures for a store.
local function pictures_key(app_id, poi_id)
  return key('pictures', app_id, poi_id)
end

-- Says what became of a submission.
local function settle(id, event, position, time)
  local submission = submission_key(id)
  call('HSET', submission, 'state', event.state, 'reason', event.reason,
    'event_id', event.event_id, 'position', position, 'settled', time)
  for _, name in ipairs({ 'poi_id', 'map_poi_id' }) do
    if event[name] ~= '' then
      call('HSET', submission, name, event[name])
    end
  end
  call('ZREM', OPEN, id)
  call('ZREM', DUE, id)
  call('ZADD', SETTLED, time, id)
end

-- A submission in the order that submission.rs reads it in.
local function submission(id)
  return call('HMGET', submission_key(id), 'number', 'message', 'created', 'audit_id', 'state',
    'reason', 'poi_id', 'map_poi_id', 'event_id', 'settled')
end

