-- Settles the write ARGV[1], if its outcome is not known: it was executed if ARGV[2] is 1. Answers
-- what it was.
local id, executed = unpack(ARGV)
local time = now()
local write = write_at(id, time)
if not write or write.state ~= 'unknown' then
  return false
end
if executed == '1' then
  finish_write(id, '', time)
else
  forget_write(id)
end
return written(write)
