-- Records the end of the write ARGV[1] under the fence ARGV[2]: ARGV[3] is 'finished' with the
-- reply ARGV[4], 'released' or 'unknown'. The rest of ARGV: the fields of its submission, each
-- after its name.
local id, fence, outcome, reply = unpack(ARGV)
if #ARGV > 4 then
  remember(named(ARGV, 5))
end
local state, its_fence = unpack(call('HMGET', write_key(id), 'state', 'fence'))
if its_fence ~= fence or state == 'finished' then
  return
end
end_write(id, outcome, reply, now())
