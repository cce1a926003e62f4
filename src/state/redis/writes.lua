-- Returns a page of writes. ARGV: after, limit, accounts as ',wx1,wx2,' or '', states as
-- ',sent,unknown,', until, request_id, whether only unfinished ones can match, and the most bytes of the page, which its
-- first row may exceed. A damaged value might match. Returns { seen, at_end, writes }.
local after, limit, accounts, states = unpack(ARGV)
local to, request_id, most_bytes = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[8])
limit = tonumber(limit)
local SCAN = 1000
local time = now()

local function is_wanted(state, over)
  if states == ',' or not STATES[state] or state ~= 'finished' and not over then
    return true
  end
  return states:find(',' .. current_state(state, over, time) .. ',', 1, true)
end

local all = request_id ~= '' and requests_key(request_id) or ARGV[7] == '1' and UNFINISHED or WRITES
local seen, found, bytes = after, {}, 0
-- The index has the numbers, too, so a row without a number does not stop the search.
local ids = call('ZRANGEBYSCORE', all, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, SCAN)
for i = 1, #ids, 2 do
  local id = ids[i]
  if #found >= limit then
    break
  end
  local its_app, state, over, created =
    unpack(read('HMGET', write_key(id), 'app_id', 'state', 'over', 'created'))
  local write = (accounts == '' or not its_app or accounts:find(',' .. its_app .. ',', 1, true))
    and is_wanted(state, tonumber(over or ''))
    and (tonumber(created or '') or 0) < to and write_at(id, time)
  if write then
    local row = write_row(write)
    if write.whole then
      bytes = bytes + size(row[1]) + size(row[2]) + #row[1][4]
    end
    if bytes > most_bytes and #found > 0 then
      break
    end
    found[#found + 1] = row
  end
  seen = ids[i + 1]
end
if call('ZCOUNT', all, '(' .. seen, '+inf') > 0 then
  return { seen, 0, found }
end
local last = call('GET', LAST_WRITE) or '0'
return { tonumber(last) > tonumber(seen) and last or seen, 1, found }
