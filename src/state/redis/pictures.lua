-- Returns the newest picture submission for the store ARGV[2] of the account ARGV[1].
local id = call('ZREVRANGE', pictures_key(ARGV[1], ARGV[2]), 0, 0)[1]
return id and submission(id)
