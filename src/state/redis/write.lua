-- Returns the write with the id ARGV[1].
local write = write_at(ARGV[1], now())
return write and write_row(write) or false
