-- What the log is and where it ends. ARGV: its epoch, if it has none.
return log(ARGV[1])
