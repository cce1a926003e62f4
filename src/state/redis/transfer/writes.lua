-- Returns at most ARGV[2] writes after the number ARGV[1], in the form of `events.lua`.
local after, limit, most_bytes, check = unpack(ARGV)
local rows, wrong, bytes = {}, {}, 0

local function check_indexes(id, its)
  local function report(present, what)
    if not present then
      wrong[#wrong + 1] = { 'write ' .. id, 'the index of ' .. what .. ' contradicts it' }
    end
  end
  local finished = its.state == 'finished'
  report((call('ZSCORE', FINISHED, id) and true or false) == finished, 'finished writes')
  report((call('ZSCORE', UNFINISHED, id) and true or false) ~= finished, 'unfinished writes')
  report((call('ZSCORE', CLAIMS, id) and true or false) == (its.state == 'claimed'), 'claims')
  if its.request_id ~= '' then
    report(call('ZSCORE', requests_key(its.request_id), id), 'request ids')
    report(call('GET', request_key(its)) == id, 'requests')
  end
end

local ids = call('ZRANGEBYSCORE', WRITES, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #ids, 2 do
  local id, its = ids[i], named(read('HGETALL', write_key(ids[i])))
  local finished = its.state == 'finished'
  -- A finished write needs no end of its term, and a damaged one may still be in an index.
  local over = its.over or finished and '0'
  local ended = its.ended or call('ZSCORE', FINISHED, id) or '0'
  local row = { ids[i + 1], id, its.caller or '', its.app_id or false, its.method or false,
    its.request_id or false, its.fingerprint or false, its.client_reference or false,
    its.state or false, its.fence or false, over or false, its.attempts or false,
    its.created or false, its.sent or false, ended, its.sought or false,
    finished and its.reply or '' }
  bytes = bytes + size(row)
  row[#row + 1] = false
  rows[#rows + 1] = row
  if check == '1' and is_whole(its) then
    check_indexes(id, its)
  end
  if bytes > tonumber(most_bytes) then
    break
  end
end
return { '0', rows, wrong }
