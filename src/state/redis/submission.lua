-- Returns the submission with the id ARGV[1].
return call('EXISTS', submission_key(ARGV[1])) == 1 and submission(ARGV[1])
