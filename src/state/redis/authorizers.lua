-- Returns at most ARGV[3] authorizers of the platform ARGV[1] in the order of their ids, after the id ARGV[2]. Returns
-- { the last id, authorizers }.
local platform, after, most = unpack(ARGV)
local found = {}
local start = after == '' and '-' or '(' .. after
local ids = call('ZRANGEBYLEX', authorizers_key(platform), start, '+', 'LIMIT', 0, most)
for i, app_id in ipairs(ids) do
  found[i] = authorizer_row(authorizer_at(platform, app_id))
end
return { ids[#ids] or after, found }
