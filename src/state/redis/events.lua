-- Returns a page of events. ARGV: after, limit, accounts as ',wx1,wx2,' or '', kinds as ',1,2,',
-- submission_id, from, until, an epoch for a log that has none, and the most bytes of the page, which
-- its first event may exceed. An event that cannot be read matches every query. Returns { seen, at_end, events, the
-- key at `after`, log }.
local after, limit, accounts, kinds, submission_id = unpack(ARGV)
local from, to, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
limit = tonumber(limit)
local SCAN, CHUNK = 2000, 100 -- the most events per page, and per read

local last = tonumber(call('GET', LAST) or 0)
local pruned = tonumber(call('HGET', PRUNED, 'position') or 0)
local seen, looked, found, bytes = tonumber(after), 0, {}, 0

-- Returns whether the query matches an event.
local function is_wanted(event)
  local received = tonumber(event.received)
  return (accounts == '' or accounts:find(',' .. event.app_id .. ',', 1, true))
    and (kinds == ',' or kinds:find(',' .. event.kind .. ',', 1, true))
    and received >= from and received < to
end

-- Returns the message of an event's submission. It is empty if the submission is stored without one.
local function submission_message(position, event)
  local id = event.submission
  if id == '' then
    id = call('HGET', LATE, position) or ''
  end
  return id ~= '' and (read('HMGET', submission_key(id), 'message')[1] or is_stored(id) and '')
end

-- Visits a position, whose entry may be missing. Returns false if the page has no room for it.
local function visit(position, event)
  if #found >= limit or looked == SCAN then
    return false
  end
  looked = looked + 1
  local damage = not event and 'its entry is missing' or event_damage(position, event)
  event = event or {}
  if damage or is_wanted(event) then
    local row = { position, event.key or false, event.received or false, event.app_id or false,
      event.kind or false, damage or false, false, false, false, false }
    if not damage then
      row[7], row[8], row[9] = event.message, event.amends, event.superseded_by
      row[10] = submission_message(position, event)
    end
    for i = 6, 10 do
      bytes = bytes + (row[i] and #row[i] or 0)
    end
    bytes = bytes + ROW_BYTES
    if bytes > most_bytes and #found > 0 then
      return false
    end
    found[#found + 1] = row
  end
  seen = position
  return true
end

-- Visits the missing entries before a position. Positions have no gaps, except where the log was
-- pruned. Returns false if the page has no room for them.
local function visit_missing(before)
  for missing = math.max(seen, pruned) + 1, before - 1 do
    if not visit(missing) then
      return false
    end
  end
  return true
end

-- Visits the next events of the log. Returns false at its end, or if the page has no more room.
local function visit_log()
  local start = string.format('%.0f-0', seen + 1)
  local chunk = call('XRANGE', LOG, start, '+', 'COUNT', math.min(CHUNK, limit + 10))
  for _, entry in ipairs(chunk) do
    local position = tonumber(entry[1]:match('^%d+'))
    -- Each position has one entry.
    if position > seen and not (visit_missing(position) and visit(position, named(entry[2]))) then
      return false
    end
  end
  if #chunk == 0 and visit_missing(last + 1) then
    seen = math.max(seen, last)
  end
  return #chunk > 0
end

-- Visits the next events of the submission.
local function visit_submission()
  local start = looked == 0 and after or string.format('%.0f', seen)
  local chunk = call('ZRANGEBYSCORE', events_key(submission_id), '(' .. start, '+inf', 'LIMIT', 0, CHUNK)
  for _, entry in ipairs(chunk) do
    local position = tonumber(entry)
    if position <= pruned then
      seen = position
    elseif not visit(position, entry_at(entry)) then
      return false
    end
  end
  if #chunk == 0 then
    seen = math.max(seen, last)
  end
  return #chunk > 0
end

local visit_next = submission_id == '' and visit_log or visit_submission
while #found < limit and looked < SCAN and visit_next() do end

local before, position = false, tonumber(after)
if position > pruned and position <= last then
  local entry = entry_at(after)
  before = entry and entry.key or ''
end
return { string.format('%.0f', seen), seen >= last and 1 or 0, found, before, log(ARGV[8]) }
