-- Deletes the token of the account ARGV[1]. Its generation stays.
local token = key('token', ARGV[1])
if call('EXISTS', token) == 1 then
  call('HDEL', token, 'value')
  call('HSET', token, 'since', 0, 'over', 0)
end
