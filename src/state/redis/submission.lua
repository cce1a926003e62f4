-- Returns the submission with the id ARGV[1].
return is_stored(ARGV[1]) and submission(ARGV[1])
