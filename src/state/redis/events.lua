-- Reads events. ARGV: after, limit, app_id, kinds as ',1,2,', submission_id, from, until,
-- the log's epoch if it has none. Answers { seen, at_end, events, log }.
local after, limit, app_id, kinds, submission_id = unpack(ARGV)
local from, to = tonumber(ARGV[6]), tonumber(ARGV[7])
limit = tonumber(limit)
local LOOK, CHUNK = 2000, 100 -- so many at most, so many at once

local last = tonumber(call('GET', LAST) or 0)
local seen, looked, found = tonumber(after), 0, {}

-- Looks at an event.
local function look(position, event)
  seen, looked = position, looked + 1
  local received = tonumber(event.received)
  if (app_id ~= '' and event.app_id ~= app_id)
    or (kinds ~= ',' and not kinds:find(',' .. event.kind .. ',', 1, true))
    or received < from or received >= to then
    return
  end
  local id = event.submission
  if id == '' then
    id = call('HGET', LATE, position) or ''
  end
  local message = id ~= '' and call('HGET', submission_key(id), 'message')
  found[#found + 1] = { position, event.key, received, event.message, event.amends,
    event.superseded_by, message }
end

-- The next positions, with or without their events.
local function more()
  local start = '(' .. (looked == 0 and after or string.format('%.0f', seen))
  if submission_id ~= '' then
    return call('ZRANGEBYSCORE', events_key(submission_id), start, '+inf', 'LIMIT', 0, CHUNK)
  end
  return call('XRANGE', LOG, start .. '-0', '+', 'COUNT', math.min(CHUNK, limit + 10))
end

while #found < limit and looked < LOOK do
  local chunk = more()
  if #chunk == 0 then
    seen = math.max(seen, last)
    break
  end
  for _, entry in ipairs(chunk) do
    if #found == limit then
      break
    end
    if submission_id ~= '' then
      look(tonumber(entry), event_at(entry))
    else
      look(tonumber(entry[1]:match('^%d+')), named(entry[2]))
    end
  end
end
return { string.format('%.0f', seen), seen >= last and 1 or 0, found, log(ARGV[8]) }
