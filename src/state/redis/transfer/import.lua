-- The beginning of every script that stores rows of a copy. ARGV: the progress of the copy, its progress
-- after this, the number of columns, their names, and the values of all rows.
local COPY = key('copy')
if call('HGET', COPY, 'at') ~= ARGV[1] then
  return 0
end
call('HSET', COPY, 'at', ARGV[2])

-- Returns an iterator over the rows, each as a table by the names of its columns.
local function rows()
  local columns = tonumber(ARGV[3])
  local at = 3 + columns
  return function()
    if at >= #ARGV then
      return nil
    end
    local row = {}
    for i = 1, columns do
      row[ARGV[3 + i]] = ARGV[at + i]
    end
    at = at + columns
    return row
  end
end

