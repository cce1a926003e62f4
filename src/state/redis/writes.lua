-- Returns a page of writes. ARGV: after, limit, accounts as ',wx1,wx2,' or '', states as ',sent,unknown,', until,
-- request_id, whether only unfinished ones can match, and the most bytes of the page, which its
-- first row may exceed. Returns { seen, at_end, writes }.
local after, limit, accounts, states = unpack(ARGV)
local to, request_id, most_bytes = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[8])
limit = tonumber(limit)
local SCAN = 1000

local all = request_id ~= '' and requests_key(request_id) or ARGV[7] == '1' and UNFINISHED or WRITES
local time = now()
local seen, found, bytes = after, {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', all, '(' .. after, '+inf', 'LIMIT', 0, SCAN)) do
  if #found >= limit then
    break
  end
  local number, its_app, state, over, created = unpack(call('HMGET', write_key(id), 'number',
    'app_id', 'state', 'over', 'created'))
  state = current_state(state, tonumber(over), time)
  if (accounts == '' or accounts:find(',' .. its_app .. ',', 1, true))
    and (states == ',' or states:find(',' .. state .. ',', 1, true))
    and tonumber(created) < to then
    local row = write_row(write_at(id, time))
    bytes = bytes + size(row[1]) + size(row[2]) + #row[1][4]
    if bytes > most_bytes and #found > 0 then
      break
    end
    found[#found + 1] = row
  end
  seen = number
end
if call('ZCOUNT', all, '(' .. seen, '+inf') > 0 then
  return { seen, 0, found }
end
local last = call('GET', LAST_WRITE) or '0'
return { tonumber(last) > tonumber(seen) and last or seen, 1, found }
