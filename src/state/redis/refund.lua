-- Decrements the counter ARGV[1] if it has not expired.
local counter = key('spent', ARGV[1])
if (tonumber(call('GET', counter) or 0) or 0) > 0 then
  call('DECR', counter)
end
