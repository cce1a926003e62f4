-- Returns at most ARGV[2] submissions after the number ARGV[1], in the form of `events.lua`.
local after, limit, most_bytes, check = unpack(ARGV)
local rows, wrong, bytes = {}, {}, 0

local function check_indexes(id, its)
  local function report(present, what)
    if not present then
      wrong[#wrong + 1] = { 'submission ' .. id, 'the index of ' .. what .. ' contradicts it' }
    end
  end
  local open = its.settled == '0'
  report((call('ZSCORE', OPEN, id) and true or false) == open, 'open submissions')
  report((call('ZSCORE', DECIDED, id) and true or false) ~= open, 'decided submissions')
  report(open or not call('ZSCORE', DUE, id), 'due submissions')
  local nameless = nameless_key(its)
  report(its.audit_id ~= '' or not nameless or call('ZSCORE', nameless, id), 'submissions without an audit id')
  report(its.kind ~= PICTURES or its.poi_id == ''
    or call('ZSCORE', pictures_key(its.app_id, its.poi_id), id), 'pictures')
  report(its.client_reference == '' or call('ZSCORE', reference_key(its.client_reference), id), 'references')
end

local ids = call('ZRANGEBYSCORE', ALL, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #ids, 2 do
  local id, its = ids[i], named(read('HGETALL', submission_key(ids[i])))
  -- The index shows whether a damaged one is open.
  local settled = its.settled or call('ZSCORE', DECIDED, id) or '0'
  local ask_at = settled == '0' and call('ZSCORE', DUE, id) or '0'
  local row = { ids[i + 1], id, its.app_id or false, its.kind or false, its.audit_id or false,
    its.poi_id or false, its.map_poi_id or false, its.client_reference or false, its.state or false,
    its.reason or false, its.event_id or false, its.created or false, settled, ask_at,
    its.message or false }
  bytes = bytes + size(row)
  row[#row + 1] = false
  rows[#rows + 1] = row
  if check == '1' and its.app_id and its.kind and its.audit_id and its.poi_id and its.client_reference
    and its.settled then
    check_indexes(id, its)
  end
  if bytes > tonumber(most_bytes) then
    break
  end
end
return { '0', rows, wrong }
