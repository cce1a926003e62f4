-- Stores the ticket ARGV[2] of the platform ARGV[1], which WeChat sent at ARGV[3], in seconds. Redis deletes it
-- when its life of ARGV[4] milliseconds is over. Returns whether it is stored now.
local platform, value, sent_at, life = unpack(ARGV)
local _, its_time = ticket_of(platform)
if its_time and tonumber(its_time) > tonumber(sent_at) then
  return 0
end
local ticket = ticket_key(platform)
call('DEL', ticket)
call('HSET', ticket, 'value', value, 'sent_at', sent_at, 'sum', ticket_sum(platform, value, sent_at))
call('PEXPIREAT', ticket, string.format('%.0f', math.min(sent_at * 1000, now()) + tonumber(life)))
return 1
