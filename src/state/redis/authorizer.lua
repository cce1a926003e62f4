-- Returns the authorizer ARGV[2] of the platform ARGV[1].
local authorizer = authorizer_at(ARGV[1], ARGV[2])
return authorizer and authorizer_row(authorizer)
