-- What the log is and where it ends. ARGV: its epoch, if it has none.
local epoch = call('GET', key('epoch'))
if not epoch then
  -- Only then does this write: a Redis that is full can still be read.
  epoch = ARGV[1]
  call('SET', key('epoch'), epoch)
end
local newest = call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
local pruned = call('HMGET', PRUNED, 'position', 'key')
return {
  epoch,
  pruned[1] and { tonumber(pruned[1]), pruned[2] } or false,
  newest and { tonumber(newest[1]:match('^%d+')), named(newest[2]).key } or false,
}
