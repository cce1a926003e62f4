-- Settles the write ARGV[1], if its outcome is not known: it was executed, with the reply ARGV[3], if
-- ARGV[2] is 1. Answers what it was.
local id, executed, reply = unpack(ARGV)
local time = now()
local write = write_at(id, time)
if not write or write.state ~= 'unknown' then
  return false
end
if executed == '1' then
  finish_write(id, reply, time)
else
  forget_write(id)
end
return written(write)
