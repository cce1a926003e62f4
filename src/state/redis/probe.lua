-- Writes something.
call('SET', key('probe'), now())
