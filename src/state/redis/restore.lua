-- Restores a write that the calling process had sent before the state was lost. ARGV[1] is its end:
-- 'finished' with the reply ARGV[2], 'unknown', or empty. ARGV[3] is the number of following
-- arguments that are the write's fields, each after its name. They are those of `begin.lua`, and
-- `fence`, `attempts`, `record`, the time since it was sent (`age`), and the time for which an
-- answer may still arrive (`rest`), in milliseconds. The rest of ARGV: the fields of its
-- submission.
local outcome, reply, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local new, time = named(ARGV, 4, count + 3), now()
local id = new.write_id
if #ARGV > count + 3 then
  remember(named(ARGV, count + 4))
end
local write = write_at(id, time)
if write and (not write.whole or write.state == 'finished' or tonumber(write.fence) > tonumber(new.fence)) then
  return
end
local sent = time - tonumber(new.age)
if not write then
  -- Another write has the request id, so this one is found by its own id alone.
  if new.request_id ~= '' and known_write(new) then
    new.request_id = ''
  end
  add_write(new, new.fence, sent)
end
call('HSET', write_key(id), 'state', 'sent', 'fence', new.fence, 'attempts', new.attempts,
  'sent', sent, 'over', time + tonumber(new.rest), 'sought', new.record)
call('ZREM', CLAIMS, id)
if outcome ~= '' then
  end_write(id, outcome, reply, time)
end
