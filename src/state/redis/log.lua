-- Returns the log and its end. ARGV: an epoch for a log that has none.
return log(ARGV[1])
