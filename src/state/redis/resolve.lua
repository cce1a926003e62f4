-- Ends the write ARGV[1] if its outcome is unknown: ARGV[2] is 'finished' with the reply ARGV[3],
-- 'released' or 'unknown'. The rest of ARGV: the fields of its submission, each after its name.
-- Returns the write as it was.
local id, outcome, reply = unpack(ARGV)
local time = now()
local write = write_at(id, time)
if write and not write.whole then
  return write_row(write)
end
if not write or write.state ~= 'unknown' then
  return false
end
if #ARGV > 3 then
  remember(named(ARGV, 4))
end
end_write(id, outcome, reply, time)
return write_row(write)
