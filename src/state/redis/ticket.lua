-- Returns the ticket of the platform ARGV[1] as { value, sent_at }, or nothing if its life of ARGV[2] milliseconds
-- is over.
local platform, life = unpack(ARGV)
local value, sent_at = ticket_of(platform)
return value and sent_at * 1000 + tonumber(life) >= now() and { value, sent_at }
