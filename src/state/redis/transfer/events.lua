-- Returns at most ARGV[2] events after the position ARGV[1], and fewer if they have more bytes than ARGV[3], as
-- { pruned, events, wrong entries of indexes }. The last value of an event is its damage. Indexes are checked if
-- ARGV[4] is 1.
local after, limit, most_bytes, check = unpack(ARGV)
local pruned = call('HGET', PRUNED, 'position') or '0'
local rows, wrong, bytes = {}, {}, 0

local function check_indexes(position, event)
  local function report(why)
    wrong[#wrong + 1] = { 'event ' .. position, why }
  end
  if call('HGET', POSITIONS, event.key) ~= position then
    report('the index of keys has another position')
  end
  local id, review = event.submission, review_of(event)
  if id ~= '' and not call('ZSCORE', events_key(id), position) then
    report('the index of its submission lacks it')
  elseif id == '' and review and not call('ZSCORE', unclaimed_key(review), position) then
    report('the index of its review lacks it')
  end
end

local start = string.format('%.0f-0', after + 1)
for _, entry in ipairs(call('XRANGE', LOG, start, '+', 'COUNT', limit)) do
  local position, event = entry[1]:match('^%d+'), named(entry[2])
  local damage = event_damage(position, event)
  if event.submission == '' then
    event.submission = call('HGET', LATE, position) or ''
  end
  local row = { position }
  for i, name in ipairs(EVENT_FIELDS) do
    row[i + 1] = event[name] or false
  end
  bytes = bytes + size(row)
  row[#EVENT_FIELDS + 2] = damage or false
  rows[#rows + 1] = row
  if check == '1' and not damage then
    check_indexes(position, event)
  end
  if bytes > tonumber(most_bytes) then
    break
  end
end
return { pruned, rows, wrong }
