-- What every script begins with. KEYS[1] is what all keys begin with: its hash tag keeps them in
-- one slot of a cluster, so that scripts may make up the rest. Redis runs one script at a time, and
-- writes down what it did as one transaction.

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
local LAST_NUMBER = key('submissions', 'last')
local OPEN = key('submissions', 'open')       -- those of them that are open
local DUE = key('submissions', 'due')         -- open ones by when they are to be asked about
local SETTLED = key('submissions', 'settled') -- the others by when they were settled

-- Kinds of submissions, as the contract numbers them.
local UNSPECIFIED, MERCHANT, PICTURES = '0', '1', '4'

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

-- The submissions of pictures for a store, by number.
local function pictures_key(app_id, poi_id)
  return key('pictures', app_id, poi_id)
end

-- The submissions with a number of the caller's, by number.
local function reference_key(client_reference)
  return key('reference', client_reference)
end

-- Whether a result counts more than one that was there before.
local function beats(event, other)
  if event.pushed ~= other.pushed then
    return event.pushed == '1'
  end
  return tonumber(event.event_time) >= tonumber(other.event_time)
end

-- The result of a submission or review that counts, and its position.
local function result(of)
  local position = call('HGET', of, 'position')
  return position and event_at(position), position
end

-- Says what became of a submission.
local function settle(id, event, position, time)
  local submission = submission_key(id)
  if event.kind == PICTURES and event.poi_id ~= '' then
    local number, poi_id = unpack(call('HMGET', submission, 'number', 'poi_id'))
    call('ZREM', pictures_key(event.app_id, poi_id), id)
    call('ZADD', pictures_key(event.app_id, event.poi_id), number, id)
  end
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

-- Links a review to a submission, with all that came about it before.
local function claim(review, id, time)
  call('HSET', review_key(review), 'submission', id)
  for _, position in ipairs(call('ZRANGE', unclaimed_key(review), 0, -1)) do
    call('HSET', LATE, position, id)
    call('ZADD', events_key(id), position, position)
  end
  call('DEL', unclaimed_key(review))
  local event, position = result(review_key(review))
  local other = result(submission_key(id))
  if event and not (other and beats(other, event)) then
    settle(id, event, position, time)
  end
end

-- A submission in the order that submission.rs reads it in.
local function submission(id)
  return call('HMGET', submission_key(id), 'number', 'message', 'created', 'audit_id', 'state',
    'reason', 'poi_id', 'map_poi_id', 'event_id', 'settled')
end

