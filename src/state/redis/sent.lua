-- Records that the write ARGV[1] is about to be sent under the fence ARGV[2]. Its outcome is known
-- after ARGV[3] milliseconds, or else recovery uses the record ARGV[4]. Returns whether it may be
-- sent.
local id, fence, by, record = unpack(ARGV)
local time = now()
local write = write_at(id, time)
if not write or not write.whole or write.fence ~= fence or write.rest == 0 or write.state == 'unknown' then
  return 0
end
send_write(id, { by = by, record = record }, time)
return 1
