-- What the scripts begin with that run before the state is known. `adopt.lua` says what is in GUARD.

local GUARD = KEYS[1] .. 'guard'

-- Milliseconds since 1970.
local time = redis.call('TIME')
time = time[1] * 1000 + math.floor(time[2] / 1000)

-- Names this Redis: another name says that it was started anew, or has its data from elsewhere since.
-- Empty where the user may not ask.
local function server()
  local id = ''
  for section, pattern in pairs({ server = 'run_id:(%x+)', replication = 'master_replid:(%x+)' }) do
    local said = redis.pcall('INFO', section)
    id = id .. (type(said) == 'string' and said:match(pattern) or '')
  end
  return id
end

