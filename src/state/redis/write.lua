-- The write with the id ARGV[1].
local write = write_at(ARGV[1], now())
return write and written(write) or false
