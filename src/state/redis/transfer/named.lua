-- Returns rows that no index lists, in the form of `events.lua`. ARGV[1] is their kind, and the rest of ARGV their
-- names. A row that is gone is left out.
local rows, time = {}, now()

local function lease(name)
  local fence, held, over = unpack(read('HMGET', key('lease', name), 'fence', 'held', 'over'))
  return (fence or over) and { name, fence or '0', held and held ~= '' and '1' or '0', over or '0', false }
end

-- A token that was dropped has no value.
local function token(name)
  local value, generation, since, over =
    unpack(read('HMGET', key('token', name), 'value', 'generation', 'since', 'over'))
  local is_over = (tonumber(over or 0) or 0) == 0
  local damage = not value and not is_over and 'its value is missing'
    or value and value:find('[^ -~]') and 'its value is no token'
  return (value or generation) and { name, value or '', generation or '0', since or '0', over or '0',
    damage or false }
end

local function counter(name)
  local at = key('spent', name)
  local spent = redis.pcall('GET', at)
  local left = call('PTTL', at)
  if type(spent) == 'table' then
    return { name, false, '0', 'it is no counter' }
  end
  return spent and left > 0 and { name, spent, string.format('%.0f', time + left), false }
end

local function ticket(name)
  local value, sent_at = ticket_of(name)
  if not value and call('EXISTS', ticket_key(name)) == 1 then
    return { name, '', '0', 'its checksum is wrong' }
  end
  return value and { name, value, sent_at, false }
end

local read_row = ({ leases = lease, tokens = token, counters = counter, tickets = ticket })[ARGV[1]]
for i = 2, #ARGV do
  rows[#rows + 1] = read_row(ARGV[i]) or nil
end
return { '0', rows, {} }
