-- Writes a value. Returns the rest of the quiet period after a loss.
local time = now()
call('SET', key('probe'), time)
return quiet_left(time)
