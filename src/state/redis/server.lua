-- The beginning of the scripts that run before the state is known. `adopt.lua` describes GUARD.

local GUARD = KEYS[1] .. 'guard'

-- The time in milliseconds since 1970.
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)

-- Returns the identity of this Redis. It changes if Redis restarts or receives its data from
-- another server. It is empty if the user may not run INFO.
local function server()
  local id = ''
  for section, pattern in pairs({ server = 'run_id:(%x+)', replication = 'master_replid:(%x+)' }) do
    local said = redis.pcall('INFO', section)
    id = id .. (type(said) == 'string' and said:match(pattern) or '')
  end
  return id
end

