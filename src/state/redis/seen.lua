-- Records that this process runs. `adopt.lua` describes GUARD.
call('HSET', GUARD, 'at:' .. me, now())
