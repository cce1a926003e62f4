-- Adds an event. ARGV: its fields, each after its name; beside them which submission WeChat was
-- asked about, if it was, and whether it settles one. Answers what became of it, and its position.
local event = named(ARGV)

local known = call('HGET', POSITIONS, event.key)
if known then
  return { 'known', tonumber(known) }
end

local time = now()

-- Its submission.
local review = review_of(event)
local id = ''
if event.pushed == '0' then
  if not call('ZSCORE', OPEN, event.asked_about) then
    return { 'settled', 0 }
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
  forget_nameless(id)
  call('HSET', submission_key(id), 'audit_id', event.audit_id)
  claim(review, id, time)
end

-- The result so far, and which of the two counts. What settles nothing is no result.
event.amends, event.superseded_by = '', ''
local counts = event.settles == '1'
if counts then
  local other = id ~= '' and result(submission_key(id)) or review and result(review_key(review))
  if other then
    counts = beats(event, other)
    event[counts and 'amends' or 'superseded_by'] = other.event_id
  end
end

-- Not by INCR: killed in the middle of writing this down, Redis executes its beginning once more after
-- the next restart, and a position would be left out.
local position = tonumber(call('GET', LAST) or 0) + 1
call('SET', LAST, position)
-- Always the same fields in the same order: Redis then stores their names once.
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
    settle(id, event, position, time)
  end
end
return { 'new', position }
