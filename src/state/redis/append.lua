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
event.received, event.submission = string.format('%.0f', time), id
local entry = {}
for _, name in ipairs(EVENT_FIELDS) do
  entry[#entry + 1], entry[#entry + 2] = name, event[name]
end
entry[#entry + 1], entry[#entry + 2] = 'sum', event_sum(position, event)
call('XADD', LOG, position .. '-0', unpack(entry))
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
