-- Returns the number of events, submissions, open ones, writes and unfinished ones, and the number of keys in the
-- index of events.
return { call('XLEN', LOG), call('ZCARD', ALL), call('ZCARD', OPEN), call('ZCARD', WRITES),
  call('ZCARD', UNFINISHED), call('HLEN', POSITIONS) }
