-- The beginning of every script. KEYS[1] is the prefix of all keys. Its hash tag keeps them in one
-- slot of a cluster, so scripts may build other keys from it. Redis runs one script at a time and
-- persists its changes as one transaction.
--
-- Not split because a script of Redis cannot load another one. Each script includes the functions
-- that it does not use, because Redis parses a script only once and then runs it by its hash.
--
-- `end.lua` is the end of every script.
--
-- Stored names must stay, because replicas of two versions may share a state: `sought` is the record
-- of a write, and `settled` is the time at which a submission was decided.

local READS = { EXISTS = true, GET = true, HGET = true, HGETALL = true, HLEN = true, HMGET = true,
  PTTL = true, SCAN = true, TIME = true, XLEN = true, XRANGE = true, XREVRANGE = true, ZCARD = true,
  ZCOUNT = true, ZRANGE = true, ZRANGEBYLEX = true, ZRANGEBYSCORE = true, ZREVRANGE = true,
  ZSCORE = true }
local wrote = false -- true if this script has changed anything

local function call(command, ...)
  wrote = wrote or not READS[command]
  return redis.call(command, ...)
end

-- Reads a row that has a key of its own. Returns an empty row if the key has an unexpected type, so
-- that other rows can be read.
local function read(command, ...)
  local row = redis.pcall(command, ...)
  if row.err then
    return row.err:find('WRONGTYPE', 1, true) and {} or call(command, ...)
  end
  return row
end

local function key(...)
  return KEYS[1] .. table.concat({ ... }, ':')
end

-- The first arguments: the era that the process knows, its name, the number of changes that it has
-- seen, and the number of its own changes. If the state has another era or fewer changes, the
-- script changes nothing and returns an empty answer. `adopt.lua` describes GUARD.
local GUARD = key('guard')
local era, me, seen, seen_own = unpack(ARGV, 1, 4)
local its_era, steps, own, quiet, base =
  unpack(call('HMGET', GUARD, 'era', 'steps', me, 'quiet', 'base'))
steps, own = tonumber(steps or 0), tonumber(own or 0)
if its_era ~= era or steps < tonumber(seen) or own < tonumber(seen_own) then
  return {}
end
local ARGV = { unpack(ARGV, 5) }

-- Every fence and generation of this state is higher than BASE, so none is used twice, even after a
-- loss.
local BASE = tonumber(base or 0)

local LOG = key('log')                 -- the stream of events, whose entry ids are <position>-0
local LAST = key('log', 'last')        -- the newest position
local POSITIONS = key('log', 'keys')   -- the position of each event key
local LATE = key('log', 'late')        -- position -> submission that was stored after the event
local PRUNED = key('log', 'pruned')    -- position and key of the last pruned event
local ALL = key('submissions')         -- submissions by number
local LAST_NUMBER = key('submissions', 'last')
local OPEN = key('submissions', 'open')       -- the open ones
local DUE = key('submissions', 'due')         -- open ones by the time of their next poll
local DECIDED = key('submissions', 'settled') -- the others by the time of their result

local WRITES = key('writes')                    -- writes by number
local LAST_WRITE = key('writes', 'last')
local UNFINISHED = key('writes', 'unfinished')  -- the unfinished ones
local CLAIMS = key('writes', 'claims')          -- the unsent ones by the end of their terms
local FINISHED = key('writes', 'finished')      -- the finished ones by the time of their end

-- The authorizers whose authorization ended, as platform:account, by the time of its end in seconds.
local UNAUTHORIZED = key('unauthorized')

-- Returns the time in milliseconds since 1970.
local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The size of a row apart from its texts, in bytes.
local ROW_BYTES = 64

-- Returns the size of a row of a page.
local function size(row)
  local bytes = ROW_BYTES
  for _, text in ipairs(row) do
    bytes = bytes + (text and #tostring(text) or 0)
  end
  return bytes
end

-- Returns how long no process may begin new work after a loss.
local function quiet_left(time)
  return math.max(tonumber(quiet or 0) - time, 0)
end

-- Returns a list of names and values as a table, optionally from one index to another.
local function named(list, from, to)
  local fields = {}
  for i = from or 1, to or #list, 2 do
    fields[list[i]] = list[i + 1]
  end
  return fields
end

-- The fields of an event, apart from its checksum `sum`. Redis stores the names of the fields once if
-- they are always in this order.
local EVENT_FIELDS = { 'key', 'received', 'event_id', 'app_id', 'kind', 'audit_id', 'state', 'reason',
  'poi_id', 'map_poi_id', 'event_time', 'pushed', 'submission', 'amends', 'superseded_by', 'message' }

-- Returns the checksum of an event, because Redis does not detect a flipped bit in its file.
local function event_sum(position, event)
  local parts = { position .. '-0' }
  for i, name in ipairs(EVENT_FIELDS) do
    parts[i + 1] = #event[name] .. ':' .. event[name]
  end
  return redis.sha1hex(table.concat(parts, ',')):sub(1, 8)
end

-- Returns why an event cannot be read, or nil.
local function event_damage(position, event)
  for _, name in ipairs(EVENT_FIELDS) do
    if not event[name] then
      return 'its ' .. name .. ' is missing'
    end
  end
  for _, name in ipairs({ 'received', 'kind', 'event_time' }) do
    if not tonumber(event[name]) then
      return 'its ' .. name .. ' is no number'
    end
  end
  -- An event of a version without checksums is read without.
  if event.sum and event.sum ~= event_sum(position, event) then
    return 'its checksum is wrong'
  end
end

-- Returns the entry at a position, whether it can be read or not.
local function entry_at(position)
  local id = position .. '-0'
  local entry = call('XRANGE', LOG, id, id)[1]
  return entry and named(entry[2])
end

-- Returns the event at a position, unless it was pruned or cannot be read.
local function event_at(position)
  local event = entry_at(position)
  return event and not event_damage(position, event) and event
end

-- Returns the log and its end, in the order that event.rs expects. A lost key is an empty text.
-- `epoch` is for a log that has none.
local function log(epoch)
  local known = call('GET', key('epoch'))
  if not known then
    -- The script writes only in this case, so a full Redis can still be read.
    call('SET', key('epoch'), epoch)
  end
  local last = tonumber(call('GET', LAST) or 0)
  local newest = entry_at(last)
  local pruned = call('HMGET', PRUNED, 'position', 'key')
  return {
    known or epoch,
    pruned[1] and { tonumber(pruned[1]), pruned[2] or '' } or false,
    last > 0 and { last, newest and newest.key or '' } or false,
  }
end

-- Returns the name of the review that an event or a submission is about, if it has an audit id.
local function review_of(about)
  return about.kind and about.app_id and about.audit_id
    and about.kind ~= UNSPECIFIED and about.audit_id ~= ''
    and table.concat({ about.kind, about.app_id, about.audit_id }, ':')
end

-- The key of a review: its submission, and the position of the result that counts.
local function review_key(review)
  return key('review', review)
end

-- The key of the positions of events that arrived before their submission.
local function unclaimed_key(review)
  return key('unclaimed', review)
end

local function submission_key(id)
  return key('submission', id)
end

-- The key of the submissions without an audit id that an event can match, by number: those of an
-- account for a merchant, and those for a store with a known id. Returns nothing for other kinds.
local function nameless_key(about)
  if about.kind == MERCHANT then
    return about.app_id and key('nameless', about.app_id)
  end
  return about.kind == STORE and about.app_id and about.poi_id and about.poi_id ~= '' and key('nameless', about.app_id, about.poi_id)
end

-- Removes a submission that has an audit id now, or that is pruned.
local function remove_nameless(id)
  local about = {}
  about.app_id, about.kind, about.poi_id =
    unpack(read('HMGET', submission_key(id), 'app_id', 'kind', 'poi_id'))
  local nameless = nameless_key(about)
  if nameless then
    call('ZREM', nameless, id)
  end
end

-- The key of the positions of a submission's events.
local function events_key(id)
  return key('events', id)
end

-- The key of the picture submissions for a store, by number.
local function pictures_key(app_id, poi_id)
  return key('pictures', app_id, poi_id)
end

-- The key of the submissions with a caller's reference, by number.
local function reference_key(client_reference)
  return key('reference', client_reference)
end

-- Returns true if a result counts more than an earlier one.
local function beats(event, other)
  if event.pushed ~= other.pushed then
    return event.pushed == '1'
  end
  return tonumber(event.event_time) >= tonumber(other.event_time)
end

-- Returns the result of a submission or review that counts, and its position.
local function result(of)
  local position = call('HGET', of, 'position')
  return position and event_at(position), position
end

-- Returns the number of a submission. Its row may be damaged.
local function number_of(id)
  return call('ZSCORE', ALL, id) or 0
end

-- Sets a submission to a result.
local function decide(id, event, position, time)
  local submission = submission_key(id)
  if event.kind == PICTURES and event.poi_id ~= '' then
    call('ZREM', pictures_key(event.app_id, call('HGET', submission, 'poi_id') or ''), id)
    call('ZADD', pictures_key(event.app_id, event.poi_id), number_of(id), id)
  end
  call('HSET', submission, 'state', event.state, 'reason', event.reason,
    'event_id', event.event_id, 'position', position, 'settled', time)
  local nameless = call('HGET', submission, 'audit_id') == '' and event.poi_id ~= ''
    and event.kind == STORE
  if nameless then
    remove_nameless(id)
  end
  for _, name in ipairs({ 'poi_id', 'map_poi_id' }) do
    if event[name] ~= '' then
      call('HSET', submission, name, event[name])
    end
  end
  if nameless then
    call('ZADD', nameless_key(event), number_of(id), id)
  end
  call('ZREM', OPEN, id)
  call('ZREM', DUE, id)
  call('ZADD', DECIDED, time, id)
end

-- Links a review to a submission, with all events that arrived before it.
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
    decide(id, event, position, time)
  end
end

-- Stores a submission. `open` and `ask_after` (milliseconds or empty) are not stored as its fields.
-- Repeating this has no effect.
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
    -- No event will decide it, so it is kept as if it was decided now.
    call('ZADD', DECIDED, time, id)
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

-- Returns a submission in the order that submission.rs expects.
local function submission(id)
  return read('HMGET', submission_key(id), 'number', 'message', 'created', 'audit_id', 'state',
    'reason', 'poi_id', 'map_poi_id', 'event_id', 'settled', 'app_id', 'kind')
end

-- Returns whether a submission is stored, even if its row is lost.
local function is_stored(id)
  return call('EXISTS', submission_key(id)) == 1 or call('ZSCORE', ALL, id)
end

local function write_key(id)
  return key('write', id)
end

-- The key of the write with a caller's request id. No name of an account or a method has a colon. A
-- caller without a name has the key that earlier versions use, too.
local function request_key(write)
  local app_id, method, request_id = write.app_id, write.method, write.request_id
  local caller = write.caller or ''
  if caller == '' then
    return key('request', app_id, method, request_id)
  end
  return key('request', app_id, method, request_id, caller)
end

-- The key of the writes with the same request id, by number.
local function requests_key(request_id)
  return key('requests', request_id)
end

-- Returns the state of a write whose term or deadline is at `over`, and the time left until then. A
-- sent write becomes unknown at that time.
local function current_state(state, over, time)
  local rest = state == 'finished' and 0 or math.max(over - time, 0)
  return state == 'sent' and rest == 0 and 'unknown' or state, rest
end

local STATES = { claimed = true, sent = true, unknown = true, finished = true }
local WRITE_TEXTS = { 'app_id', 'method', 'request_id', 'fingerprint', 'client_reference', 'sought' }
local WRITE_NUMBERS = { 'number', 'fence', 'attempts', 'created', 'sent', 'ended' }

-- Returns whether all fields of a write have the right form.
local function is_whole(write)
  for _, name in ipairs(WRITE_TEXTS) do
    if not write[name] then
      return false
    end
  end
  for _, name in ipairs(WRITE_NUMBERS) do
    if not tonumber(write[name]) then
      return false
    end
  end
  return STATES[write.state] and (write.state == 'finished' or tonumber(write.over)) and true
end

-- Returns a write in its current state, or nil if there is none. A write whose row is damaged or lost
-- is not `whole`. Such a write must be neither sent nor taken for a new one.
local function write_at(id, time)
  local write = named(read('HGETALL', write_key(id)))
  if not next(write) and not call('ZSCORE', WRITES, id) then
    return nil
  end
  write.write_id = id
  write.whole = is_whole(write)
  if write.whole then
    write.state, write.rest = current_state(write.state, tonumber(write.over), time)
  end
  return write
end

-- Returns a write in the order that write.rs expects.
local function write_row(write)
  return write.whole and {
    { write.number, write.write_id, write.app_id, write.method, write.request_id,
      write.client_reference, write.caller or '' },
    { write.state, write.attempts, write.reply or false, write.created, write.sent, write.ended,
      write.rest, write.sought },
  } or {}
end

-- Returns the id of the write that a caller names by its request id: its own, or else the same request
-- of a caller without a name. Returns nil if there is none.
local function known_write(new)
  local own = call('GET', request_key(new))
  if own then
    return own
  end
  local caller = new.caller or ''
  for _, id in ipairs(call('ZREVRANGE', requests_key(new.request_id), 0, -1)) do
    local app_id, method, fingerprint, its_caller =
      unpack(read('HMGET', write_key(id), 'app_id', 'method', 'fingerprint', 'caller'))
    if app_id == new.app_id and method == new.method and fingerprint == new.fingerprint
      and (caller == '' or (its_caller or '') == '') then
      return id
    end
  end
end

-- Stores a new write.
local function add_write(new, fence, created)
  local id = new.write_id
  local number = call('INCR', LAST_WRITE)
  call('HSET', write_key(id), 'number', number, 'app_id', new.app_id, 'method', new.method,
    'request_id', new.request_id, 'fingerprint', new.fingerprint, 'caller', new.caller,
    'client_reference', new.client_reference, 'state', 'claimed', 'fence', fence, 'attempts', 0,
    'sought', '', 'created', created, 'sent', 0, 'ended', 0)
  call('ZADD', WRITES, number, id)
  call('ZADD', UNFINISHED, number, id)
  if new.request_id ~= '' then
    call('SET', request_key(new), id)
    call('ZADD', requests_key(new.request_id), number, id)
  end
end

-- Records that a write is about to be sent. Its outcome is known after `by` milliseconds, or else
-- recovery uses `record`.
local function send_write(id, sent, time)
  call('HSET', write_key(id), 'state', 'sent', 'sent', time, 'over', time + tonumber(sent.by),
    'sought', sent.record)
  call('HINCRBY', write_key(id), 'attempts', 1)
  call('ZREM', CLAIMS, id)
end

-- Deletes a write and all its index entries.
local function delete_write(id)
  local write = {}
  write.app_id, write.method, write.request_id, write.caller =
    unpack(read('HMGET', write_key(id), 'app_id', 'method', 'request_id', 'caller'))
  if write.app_id and write.method and write.request_id and write.request_id ~= '' then
    call('DEL', request_key(write))
    call('ZREM', requests_key(write.request_id), id)
  end
  for _, set in ipairs({ WRITES, UNFINISHED, CLAIMS, FINISHED }) do
    call('ZREM', set, id)
  end
  call('DEL', write_key(id))
end

-- Records the end of a write: 'finished' with a reply, 'released' or 'unknown'.
local function end_write(id, outcome, reply, time)
  if outcome == 'finished' then
    call('HSET', write_key(id), 'state', 'finished', 'reply', reply, 'ended', time)
    call('ZREM', UNFINISHED, id)
    call('ZREM', CLAIMS, id)
    call('ZADD', FINISHED, time, id)
  elseif outcome == 'released' then
    delete_write(id)
  else
    call('HSET', write_key(id), 'state', 'unknown')
    call('ZREM', CLAIMS, id)
  end
end

local function ticket_key(platform)
  return key('ticket', platform)
end

-- Returns the checksum of the ticket of a platform. A wrong time would hide every later ticket.
local function ticket_sum(platform, value, sent_at)
  return redis.sha1hex(table.concat({ platform, sent_at, value }, ',')):sub(1, 8)
end

-- Returns the ticket of a platform and when WeChat sent it, in seconds. A damaged one counts as absent, because
-- the next one comes soon.
local function ticket_of(platform)
  local value, sent_at, sum = unpack(read('HMGET', ticket_key(platform), 'value', 'sent_at', 'sum'))
  if value and tonumber(sent_at or '') and sum == ticket_sum(platform, value, sent_at) then
    return value, sent_at
  end
end

local function authorizer_key(platform, app_id)
  return key('authorizer', platform, app_id)
end

-- The key of the authorizers of a platform, which Redis orders by their ids.
local function authorizers_key(platform)
  return key('authorizers', platform)
end

-- The fields of an authorizer, apart from its checksum `sum`. `authorized` is 0 or 1, and `refresh_token` is
-- empty if there is none. `revision` counts its changes.
local AUTHORIZER_FIELDS = { 'changed_at', 'authorized', 'refresh_token', 'record', 'revision' }

-- Returns the checksum of an authorizer. A wrong time would hide every later change.
local function authorizer_sum(authorizer)
  local parts = { authorizer.platform, authorizer.app_id }
  for i, name in ipairs(AUTHORIZER_FIELDS) do
    parts[i + 2] = #authorizer[name] .. ':' .. authorizer[name]
  end
  return redis.sha1hex(table.concat(parts, ',')):sub(1, 8)
end

-- Returns whether all fields of an authorizer have the right form.
local function is_whole_authorizer(authorizer)
  for _, name in ipairs(AUTHORIZER_FIELDS) do
    if not authorizer[name] then
      return false
    end
  end
  return tonumber(authorizer.changed_at) and tonumber(authorizer.revision)
    and authorizer.sum == authorizer_sum(authorizer)
end

-- Returns an authorizer, or nil if there is none. If its row is damaged or lost, it is not `whole`.
local function authorizer_at(platform, app_id)
  local authorizer = named(read('HGETALL', authorizer_key(platform, app_id)))
  if not next(authorizer) and not call('ZSCORE', authorizers_key(platform), app_id) then
    return nil
  end
  authorizer.platform, authorizer.app_id = platform, app_id
  authorizer.whole = is_whole_authorizer(authorizer)
  return authorizer
end

-- Returns an authorizer in the order that platform.rs expects.
local function authorizer_row(authorizer)
  return authorizer.whole and { authorizer.platform, authorizer.app_id, authorizer.changed_at,
    authorizer.authorized, authorizer.refresh_token, authorizer.record, authorizer.revision } or {}
end

-- Returns the revision after that of `old`, which may be nil. There is less than one change per millisecond, so the
-- revision of a new authorizer is higher than every earlier one.
local function next_revision(old)
  local last = old and old.whole and tonumber(old.revision) or now()
  return string.format('%.0f', math.max(last, BASE) + 1)
end

-- Stores an authorizer.
local function store_authorizer(authorizer)
  local platform, app_id = authorizer.platform, authorizer.app_id
  local at = authorizer_key(platform, app_id)
  call('DEL', at) -- it may be damaged
  local fields = { 'sum', authorizer_sum(authorizer) }
  for _, name in ipairs(AUTHORIZER_FIELDS) do
    fields[#fields + 1], fields[#fields + 2] = name, authorizer[name]
  end
  call('HSET', at, unpack(fields))
  call('ZADD', authorizers_key(platform), 0, app_id)
  local member = platform .. ':' .. app_id
  if authorizer.authorized == '1' then
    call('ZREM', UNAUTHORIZED, member)
  else
    call('ZADD', UNAUTHORIZED, authorizer.changed_at, member)
  end
end

