-- Writes something. Answers how long nobody begins anything, since the state was lost.
local time = now()
call('SET', key('probe'), time)
return quiet_left(time)
