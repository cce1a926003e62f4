-- Appends an event. ARGV: its fields, each after its name, including the submission that WeChat was
-- polled about, if any, and whether the event decides it. Returns the result and the position.
local event = named(ARGV)

local known = call('HGET', POSITIONS, event.key)
if known then
  return { 'known', tonumber(known) }
end

local time = now()

-- The submission of the event.
local review = review_of(event)
local id = ''
if event.pushed == '0' then
  if not call('ZSCORE', OPEN, event.asked_about) then
    return { 'decided', 0 }
  end
  id = event.asked_about
elseif review then
  id = call('HGET', review_key(review), 'submission') or ''
end
local nameless = nameless_key(event)
if id == '' and nameless then
  id = call('ZREVRANGE', nameless, 0, 0)[1] or ''
end
if id ~= '' and review and call('HGET', submission_key(id), 'audit_id') == '' then
  remove_nameless(id)
  call('HSET', submission_key(id), 'audit_id', event.audit_id)
  claim(review, id, time)
end

-- The result so far, and the one of the two that counts. An event that decides nothing is no
-- result.
event.amends, event.superseded_by = '', ''
local counts = event.decides == '1'
if counts then
  local other = id ~= '' and result(submission_key(id)) or review and result(review_key(review))
  if other then
    counts = beats(event, other)
    event[counts and 'amends' or 'superseded_by'] = other.event_id
  end
end

-- INCR is not used, because Redis may repeat the beginning of a script if it is killed while it
-- persists the script. That would skip a position.
local position = tonumber(call('GET', LAST) or 0) + 1
call('SET', LAST, position)
-- Redis stores the names of the fields once if they are always in the same order.
call('XADD', LOG, position .. '-0', 'key', event.key, 'received', time, 'event_id', event.event_id,
  'app_id', event.app_id, 'kind', event.kind, 'audit_id', event.audit_id, 'state', event.state,
  'reason', event.reason, 'poi_id', event.poi_id, 'map_poi_id', event.map_poi_id,
  'event_time', event.event_time, 'pushed', event.pushed, 'submission', id,
  'amends', event.amends, 'superseded_by', event.superseded_by, 'message', event.message)
call('HSET', POSITIONS, event.key, position)
if id ~= '' then
  call('ZADD', events_key(id), position, position)
elseif review then
  call('ZADD', unclaimed_key(review), position, position)
end
if counts then
  if review then
    call('HSET', review_key(review), 'position', position)
  end
  if id ~= '' then
    decide(id, event, position, time)
  end
end
return { 'new', position }
