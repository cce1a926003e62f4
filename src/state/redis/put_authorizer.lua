-- Stores an authorizer. ARGV[1] is 'change', 'new' for data that is no change, or 'restore' after a loss. The rest of
-- ARGV: its fields, each after its name, with the `revision` to restore. Returns its revision if it is stored now, or 0.
local action, new = ARGV[1], named(ARGV, 2)
local old = authorizer_at(new.platform, new.app_id)
local stored = old and old.whole and old

local function is_stored_already()
  return stored.changed_at == new.changed_at and stored.authorized == new.authorized
    and stored.refresh_token == new.refresh_token and stored.record == new.record
end

local function counts()
  local its_time, time = tonumber(stored.changed_at), tonumber(new.changed_at)
  if action == 'new' then
    return stored.authorized ~= '1' and its_time < time
  end
  -- Another process may have restored or changed it since the loss.
  if action == 'restore' and its_time == time then
    return tonumber(stored.revision) < tonumber(new.revision)
  end
  return its_time <= time
end

if stored and is_stored_already() then
  return stored.revision
end
if stored and not counts() then
  return 0
end
new.revision = new.revision or next_revision(old)
store_authorizer(new)
return new.revision
