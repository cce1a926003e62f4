-- Replaces the form ARGV[4] of a secret by the form ARGV[5] of the same secret. The others are its column, its platform
-- and its account. Returns 1, or 0 if it is not stored in this form any more.
local column, platform, app_id, before, after = unpack(ARGV)
if column == 'token' then
  local token = key('token', app_id)
  if read('HMGET', token, 'value')[1] ~= before then
    return 0
  end
  call('HSET', token, 'value', after)
elseif column == 'ticket' then
  local value, sent_at = ticket_of(platform)
  if value ~= before then
    return 0
  end
  call('HSET', ticket_key(platform), 'value', after, 'sum', ticket_sum(platform, after, sent_at))
else
  local authorizer = authorizer_at(platform, app_id)
  if not authorizer or not authorizer.whole or authorizer[column] ~= before then
    return 0
  end
  authorizer[column], authorizer.revision = after, next_revision(authorizer)
  store_authorizer(authorizer)
end
return 1
