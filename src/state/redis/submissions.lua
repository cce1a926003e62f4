-- Returns a page of submissions. ARGV: after, limit, accounts as ',wx1,wx2,' or '', the kinds
-- that are not wanted as ',1,2,', the states that are not wanted in the same form, until, client_reference, whether only open ones
-- can match, and the most bytes of the page, which its first row may exceed. A damaged value might
-- match. Returns { seen, at_end, submissions }.
local after, limit, accounts, other_kinds, other_states = unpack(ARGV)
local to, client_reference, most_bytes = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[9])
limit = tonumber(limit)
local SCAN = 1000

local function is_in(set, value)
  return value and set:find(',' .. value .. ',', 1, true)
end

local all = client_reference ~= '' and reference_key(client_reference)
  or ARGV[8] == '1' and OPEN or ALL
local seen, found, bytes = after, {}, 0
-- The index has the numbers, too, so a row without a number does not stop the search.
local ids = call('ZRANGEBYSCORE', all, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, SCAN)
for i = 1, #ids, 2 do
  local id = ids[i]
  if #found >= limit then
    break
  end
  local its_app, kind, state, created = unpack(read('HMGET', submission_key(id),
    'app_id', 'kind', 'state', 'created'))
  if (accounts == '' or not its_app or is_in(accounts, its_app))
    and not is_in(other_kinds, kind) and not is_in(other_states, state)
    and (tonumber(created or '') or 0) < to and is_stored(id) then
    local row = submission(id)
    bytes = bytes + size(row)
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
local last = call('GET', LAST_NUMBER) or '0'
return { tonumber(last) > tonumber(seen) and last or seen, 1, found }
