-- What the log is and where it ends. ARGV: its epoch, if it has none.
call('SET', key('epoch'), ARGV[1], 'NX')
local newest = call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
local pruned = call('HMGET', PRUNED, 'position', 'key')
return {
  call('GET', key('epoch')),
  pruned[1] and { tonumber(pruned[1]), pruned[2] } or false,
  newest and { tonumber(newest[1]:match('^%d+')), named(newest[2]).key } or false,
}
