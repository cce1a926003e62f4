-- Returns a page of submissions. ARGV: after, limit, accounts as ',wx1,wx2,' or '', kinds as ',1,2,', states in the same
-- form, until, client_reference, whether only open ones can match, and the most bytes of the page,
-- which its first row may exceed. Returns { seen, at_end, submissions }.
local after, limit, accounts, kinds, states = unpack(ARGV)
local to, client_reference, most_bytes = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[9])
limit = tonumber(limit)
local SCAN = 1000

local all = client_reference ~= '' and reference_key(client_reference)
  or ARGV[8] == '1' and OPEN or ALL
local seen, found, bytes = after, {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', all, '(' .. after, '+inf', 'LIMIT', 0, SCAN)) do
  if #found >= limit then
    break
  end
  local number, its_app, kind, state, created = unpack(call('HMGET', submission_key(id),
    'number', 'app_id', 'kind', 'state', 'created'))
  if (accounts == '' or accounts:find(',' .. its_app .. ',', 1, true))
    and (kinds == ',' or kinds:find(',' .. kind .. ',', 1, true))
    and (states == ',' or states:find(',' .. state .. ',', 1, true))
    and tonumber(created) < to then
    local row = submission(id)
    bytes = bytes + size(row)
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
local last = call('GET', LAST_NUMBER) or '0'
return { tonumber(last) > tonumber(seen) and last or seen, 1, found }
