-- Returns { epoch, newest position, pruned position and its key, last number of a submission, of a write }.
local pruned = call('HMGET', PRUNED, 'position', 'key')
return { call('GET', key('epoch')) or '', call('GET', LAST) or '0', pruned[1] or '0', pruned[2] or '',
  call('GET', LAST_NUMBER) or '0', call('GET', LAST_WRITE) or '0' }
