-- Returns a page of events. ARGV: after, limit, accounts as ',wx1,wx2,' or '', kinds as ',1,2,', submission_id, from,
-- until, an epoch for a log that has none, and the most bytes of the page, which its first event
-- may exceed. Returns { seen, at_end, events, the key at `after`, log }.
local after, limit, accounts, kinds, submission_id = unpack(ARGV)
local from, to, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
limit = tonumber(limit)
local SCAN, CHUNK = 2000, 100 -- the most events per page, and per read

local last = tonumber(call('GET', LAST) or 0)
local seen, looked, found, bytes = tonumber(after), 0, {}, 0

-- Visits an event. Returns false if the page has no room for it.
local function visit(position, event)
  looked = looked + 1
  local received = tonumber(event.received)
  if (accounts ~= '' and not accounts:find(',' .. event.app_id .. ',', 1, true))
    or (kinds ~= ',' and not kinds:find(',' .. event.kind .. ',', 1, true))
    or received < from or received >= to then
    seen = position
    return true
  end
  local id = event.submission
  if id == '' then
    id = call('HGET', LATE, position) or ''
  end
  local message = id ~= '' and call('HGET', submission_key(id), 'message')
  bytes = bytes + ROW_BYTES + #event.message + #event.amends + #event.superseded_by
    + (message and #message or 0)
  if bytes > most_bytes and #found > 0 then
    return false
  end
  found[#found + 1] = { position, event.key, received, event.message, event.amends,
    event.superseded_by, message }
  seen = position
  return true
end

-- Returns the next positions, with or without their events.
local function more()
  local start = '(' .. (looked == 0 and after or string.format('%.0f', seen))
  if submission_id ~= '' then
    return call('ZRANGEBYSCORE', events_key(submission_id), start, '+inf', 'LIMIT', 0, CHUNK)
  end
  return call('XRANGE', LOG, start .. '-0', '+', 'COUNT', math.min(CHUNK, limit + 10))
end

local room = true
while room and #found < limit and looked < SCAN do
  local chunk = more()
  if #chunk == 0 then
    seen = math.max(seen, last)
    break
  end
  for _, entry in ipairs(chunk) do
    if not room or #found == limit then
      break
    end
    if submission_id ~= '' then
      room = visit(tonumber(entry), event_at(entry))
    else
      room = visit(tonumber(entry[1]:match('^%d+')), named(entry[2]))
    end
  end
end
local before = after ~= '0' and event_at(after)
return { string.format('%.0f', seen), seen >= last and 1 or 0, found, before and before.key or false,
  log(ARGV[8]) }
