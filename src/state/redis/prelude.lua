-- What every script begins with. KEYS[1] is what all keys begin with: its hash tag keeps them in
-- one slot of a cluster, so that scripts may make up the rest. Redis runs one script at a time, and
-- writes down what it did as one transaction.

-- `end.lua` is what every script ends with.

local READS = { EXISTS = true, GET = true, HGET = true, HGETALL = true, HMGET = true, TIME = true,
  XRANGE = true, XREVRANGE = true, ZCOUNT = true, ZRANGE = true, ZRANGEBYSCORE = true,
  ZREVRANGE = true, ZSCORE = true }
local wrote = false -- whether this script has changed anything

local function call(command, ...)
  wrote = wrote or not READS[command]
  return redis.call(command, ...)
end

local function key(...)
  return KEYS[1] .. table.concat({ ... }, ':')
end

-- The first arguments: which state the process knows, what it is called there, how often it has seen
-- the state change, and how often by itself. Another state, or one that is further back, is not
-- touched: what is answered then is nothing. `adopt.lua` says what stands in GUARD.
local GUARD = key('guard')
local era, me, seen, seen_own = unpack(ARGV, 1, 4)
local its_era, steps, own, quiet, base =
  unpack(call('HMGET', GUARD, 'era', 'steps', me, 'quiet', 'base'))
steps, own = tonumber(steps or 0), tonumber(own or 0)
if its_era ~= era or steps < tonumber(seen) or own < tonumber(seen_own) then
  return {}
end
local ARGV = { unpack(ARGV, 5) }

-- Every fence and generation of this state is higher: none comes twice, not even after a loss.
local BASE = tonumber(base or 0)

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

local WRITES = key('writes')                    -- writes by number
local LAST_WRITE = key('writes', 'last')
local UNFINISHED = key('writes', 'unfinished')  -- those of them that have not finished
local CLAIMS = key('writes', 'claims')          -- those that were not sent by when their terms end
local FINISHED = key('writes', 'finished')      -- the finished ones by when they did

-- Kinds of submissions, as the contract numbers them.
local UNSPECIFIED, MERCHANT, STORE, PICTURES = '0', '1', '3', '4'

-- Milliseconds since 1970.
local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What a row of a page counts for beside its texts, in bytes.
local ROW_BYTES = 64

-- What a row of a page counts for.
local function size(row)
  local bytes = ROW_BYTES
  for _, text in ipairs(row) do
    bytes = bytes + (text and #tostring(text) or 0)
  end
  return bytes
end

-- How long nobody begins anything, since the state was lost.
local function quiet_left(time)
  return math.max(tonumber(quiet or 0) - time, 0)
end

-- A list of names and values as a table, from a place in it on, up to another.
local function named(list, from, to)
  local fields = {}
  for i = from or 1, to or #list, 2 do
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

-- What the log is and where it ends, in the order that event.rs reads it in. `epoch` is its, if it has
-- none.
local function log(epoch)
  local known = call('GET', key('epoch'))
  if not known then
    -- Only then does this write: a Redis that is full can still be read.
    call('SET', key('epoch'), epoch)
  end
  local newest = call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  local pruned = call('HMGET', PRUNED, 'position', 'key')
  return {
    known or epoch,
    pruned[1] and { tonumber(pruned[1]), pruned[2] } or false,
    newest and { tonumber(newest[1]:match('^%d+')), named(newest[2]).key } or false,
  }
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

-- Submissions that have no audit id yet but can be recognised, by number: an account's for a merchant,
-- and those for a store whose id is known. Nothing for others.
local function nameless_key(about)
  if about.kind == MERCHANT then
    return key('nameless', about.app_id)
  end
  return about.kind == STORE and about.poi_id ~= '' and key('nameless', about.app_id, about.poi_id)
end

-- A submission has an audit id now, or is forgotten.
local function forget_nameless(id)
  local about = {}
  about.app_id, about.kind, about.poi_id =
    unpack(call('HMGET', submission_key(id), 'app_id', 'kind', 'poi_id'))
  local nameless = nameless_key(about)
  if nameless then
    call('ZREM', nameless, id)
  end
end

-- The positions of a submission's events.
local function events_key(id)
  return key('events', id)
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
  local nameless = call('HGET', submission, 'audit_id') == '' and event.poi_id ~= ''
    and event.kind == STORE
  if nameless then
    forget_nameless(id)
  end
  for _, name in ipairs({ 'poi_id', 'map_poi_id' }) do
    if event[name] ~= '' then
      call('HSET', submission, name, event[name])
    end
  end
  if nameless then
    call('ZADD', nameless_key(event), call('HGET', submission, 'number'), id)
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

-- Remembers a submission, of which `open`, and `ask_after` in milliseconds or empty, are not its own
-- fields. It is there once, however often this runs.
local function remember(new)
  local id = new.submission_id
  if call('EXISTS', submission_key(id)) == 1 then
    return
  end

  local time = now()
  local number = call('INCR', LAST_NUMBER)
  call('HSET', submission_key(id), 'number', number, 'message', new.message, 'created', time,
    'app_id', new.app_id, 'kind', new.kind, 'audit_id', new.audit_id, 'poi_id', new.poi_id,
    'client_reference', new.client_reference, 'state', new.state, 'reason', '', 'map_poi_id', '',
    'event_id', '', 'settled', new.open == '1' and 0 or time)
  call('ZADD', ALL, number, id)
  if new.open == '1' then
    call('ZADD', OPEN, number, id)
    if new.ask_after ~= '' then
      call('ZADD', DUE, time + tonumber(new.ask_after), id)
    end
  else
    -- Nothing will settle it: it is kept as long as if that happened now.
    call('ZADD', SETTLED, time, id)
  end
  if new.kind == PICTURES and new.poi_id ~= '' then
    call('ZADD', pictures_key(new.app_id, new.poi_id), number, id)
  end
  if new.client_reference ~= '' then
    call('ZADD', reference_key(new.client_reference), number, id)
  end
  local nameless = new.audit_id == '' and nameless_key(new)
  if nameless then
    call('ZADD', nameless, number, id)
  end

  local review = review_of(new)
  if review then
    claim(review, id, time)
  end
end

-- A submission in the order that submission.rs reads it in.
local function submission(id)
  return call('HMGET', submission_key(id), 'number', 'message', 'created', 'audit_id', 'state',
    'reason', 'poi_id', 'map_poi_id', 'event_id', 'settled')
end

local function write_key(id)
  return key('write', id)
end

-- Which write has a caller's name.
local function request_key(app_id, method, request_id)
  return key('request', app_id, method, request_id)
end

-- The writes with the same name of callers', by number.
local function requests_key(request_id)
  return key('requests', request_id)
end

-- Where a write stands, whose term or time is `over` then, and how long it still does: one that was
-- sent is unknown from then on.
local function standing(state, over, time)
  local rest = state == 'finished' and 0 or math.max(over - time, 0)
  return state == 'sent' and rest == 0 and 'unknown' or state, rest
end

-- A write as it stands, if there is one.
local function write_at(id, time)
  local write = named(call('HGETALL', write_key(id)))
  if not write.number then
    return nil
  end
  write.write_id = id
  write.state, write.rest = standing(write.state, tonumber(write.over), time)
  return write
end

-- A write in the order that write.rs reads it in.
local function written(write)
  return {
    { write.number, write.write_id, write.app_id, write.method, write.request_id,
      write.client_reference },
    { write.state, write.attempts, write.reply or false, write.created, write.sent, write.ended,
      write.rest, write.sought },
  }
end

-- A write that is new here.
local function add_write(new, fence, created)
  local id = new.write_id
  local number = call('INCR', LAST_WRITE)
  call('HSET', write_key(id), 'number', number, 'app_id', new.app_id, 'method', new.method,
    'request_id', new.request_id, 'fingerprint', new.fingerprint,
    'client_reference', new.client_reference, 'state', 'claimed', 'fence', fence, 'attempts', 0,
    'sought', '', 'created', created, 'sent', 0, 'ended', 0)
  call('ZADD', WRITES, number, id)
  call('ZADD', UNFINISHED, number, id)
  if new.request_id ~= '' then
    call('SET', request_key(new.app_id, new.method, new.request_id), id)
    call('ZADD', requests_key(new.request_id), number, id)
  end
end

-- Notes that a write is about to be sent, that its outcome is known after `by` milliseconds, and that
-- otherwise something is `sought`.
local function send_write(id, sent, time)
  call('HSET', write_key(id), 'state', 'sent', 'sent', time, 'over', time + tonumber(sent.by),
    'sought', sent.sought)
  call('HINCRBY', write_key(id), 'attempts', 1)
  call('ZREM', CLAIMS, id)
end

-- Leaves nothing of a write.
local function forget_write(id)
  local app_id, method, request_id =
    unpack(call('HMGET', write_key(id), 'app_id', 'method', 'request_id'))
  if request_id and request_id ~= '' then
    call('DEL', request_key(app_id, method, request_id))
    call('ZREM', requests_key(request_id), id)
  end
  for _, set in ipairs({ WRITES, UNFINISHED, CLAIMS, FINISHED }) do
    call('ZREM', set, id)
  end
  call('DEL', write_key(id))
end

-- Notes how a write ended: 'finished', with a reply, 'released' or 'unknown'.
local function end_write(id, outcome, reply, time)
  if outcome == 'finished' then
    call('HSET', write_key(id), 'state', 'finished', 'reply', reply, 'ended', time)
    call('ZREM', UNFINISHED, id)
    call('ZREM', CLAIMS, id)
    call('ZADD', FINISHED, time, id)
  elseif outcome == 'released' then
    forget_write(id)
  else
    call('HSET', write_key(id), 'state', 'unknown')
    call('ZREM', CLAIMS, id)
  end
end

