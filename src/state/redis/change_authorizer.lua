-- Changes the authorizer ARGV[2] of the platform ARGV[1]. ARGV[3] is 'refresh_token', of which ARGV[4] is the present
-- value, or 'record', for which ARGV[4] is the time of the last change. ARGV[5] is the new value. Returns the
-- authorizer as it is then, or nothing if it has another value.
local platform, app_id, field, expected, value = unpack(ARGV)
local authorizer = authorizer_at(platform, app_id)
if not authorizer or not authorizer.whole then
  return authorizer and authorizer_row(authorizer)
end
if field == 'refresh_token' then
  local present = authorizer.refresh_token
  if authorizer.authorized ~= '1' or value == '' or present ~= expected and present ~= value then
    return false
  end
elseif tonumber(authorizer.changed_at) ~= tonumber(expected) then
  return false
end
if authorizer[field] ~= value then
  authorizer[field], authorizer.revision = value, next_revision(authorizer)
  store_authorizer(authorizer)
end
return authorizer_row(authorizer)
