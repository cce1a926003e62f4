-- Stores what `head.lua` returns. ARGV has it in the same order.
local epoch, newest, pruned, pruned_key, number, write = unpack(ARGV)
if epoch ~= '' then
  call('SET', key('epoch'), epoch)
end
if newest ~= '0' then
  call('SET', LAST, newest)
end
if pruned ~= '0' then
  call('HSET', PRUNED, 'position', pruned, 'key', pruned_key)
end
call('SET', LAST_NUMBER, number)
call('SET', LAST_WRITE, write)
