-- Returns at most ARGV[3] authorizers of the platform ARGV[1] after the id ARGV[2], in the form of `events.lua`. Indexes
-- are checked if ARGV[4] is 1.
local platform, after, limit, check = unpack(ARGV)
local rows, wrong = {}, {}
local start = after == '' and '-' or '(' .. after
for _, app_id in ipairs(call('ZRANGEBYLEX', authorizers_key(platform), start, '+', 'LIMIT', 0, limit)) do
  local its = authorizer_at(platform, app_id)
  rows[#rows + 1] = { platform, app_id, its.changed_at or false, its.authorized or false,
    its.refresh_token or false, its.record or false,
    not its.whole and 'its row is lost, or its checksum is wrong' }
  local ended = call('ZSCORE', UNAUTHORIZED, platform .. ':' .. app_id) and true or false
  if check == '1' and its.whole and ended ~= (its.authorized == '0') then
    wrong[#wrong + 1] = { 'authorizer ' .. platform .. ' ' .. app_id,
      'the index of ended authorizations contradicts it' }
  end
end
return { '0', rows, wrong }
