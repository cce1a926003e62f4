-- Returns the secrets of some keys in their stored form, and where SCAN continues: { cursor, secrets }. ARGV[1] is where
-- SCAN begins, ARGV[2] the number of keys. Each secret is { column, platform, account, form }.
local found = {}

local function add(column, platform, app_id, form)
  if form and form ~= '' then
    found[#found + 1] = { column, platform, app_id, form }
  end
end

local scanned = call('SCAN', ARGV[1], 'MATCH', KEYS[1] .. '*', 'COUNT', ARGV[2])
for _, its_key in ipairs(scanned[2]) do
  local kind, name = its_key:sub(#KEYS[1] + 1):match('^(%a+):(.*)$')
  if kind == 'token' then
    add('token', '', name, read('HMGET', its_key, 'value')[1])
  elseif kind == 'ticket' then
    add('ticket', name, '', ticket_of(name))
  elseif kind == 'authorizer' then
    local platform, app_id = name:match('^([^:]*):(.*)$')
    local authorizer = platform and authorizer_at(platform, app_id)
    if authorizer and authorizer.whole then
      add('refresh_token', platform, app_id, authorizer.refresh_token)
      add('record', platform, app_id, authorizer.record)
    end
  end
end
return { scanned[1], found }
