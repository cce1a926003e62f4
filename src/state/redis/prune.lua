-- Deletes events and submissions that are older than ARGV[1] milliseconds, and finished writes and
-- abandoned claims that are older than ARGV[2] milliseconds. Deletes authorizers whose authorization ended
-- ARGV[1] milliseconds ago. The number per run is bounded.
local time = now()
local before = time - tonumber(ARGV[1])
local SCAN = 500 -- the most of each

-- Events are deleted from the oldest on, so that no gap appears.
local last = tonumber(call('GET', LAST) or 0)
local events, gone = 0, nil
for _, entry in ipairs(call('XRANGE', LOG, '-', '+', 'COUNT', SCAN)) do
  local position, event = tonumber(entry[1]:match('^%d+')), named(entry[2])
  -- An event with an unreadable time is as old as its neighbors.
  if position == last or (tonumber(event.received or '') or 0) >= before then
    break
  end
  if event.key then
    call('HDEL', POSITIONS, event.key)
  end
  local id = event.submission or ''
  if id == '' then
    id = call('HGET', LATE, position) or ''
    call('HDEL', LATE, position)
  end
  local review = review_of(event)
  if id ~= '' then
    call('ZREM', events_key(id), position)
  elseif review then
    call('ZREM', unclaimed_key(review), position)
  end
  if review and call('HGET', review_key(review), 'position') == tostring(position) then
    call('HDEL', review_key(review), 'position')
  end
  events, gone = events + 1, { position = position, key = event.key or '' }
end
if gone then
  call('HSET', PRUNED, 'position', gone.position, 'key', gone.key)
  call('XTRIM', LOG, 'MINID', (gone.position + 1) .. '-0')
end

-- This process is still running.
call('HSET', GUARD, 'at:' .. me, time)

-- Submissions are deleted from the one that was decided first.
local old = call('ZRANGEBYSCORE', DECIDED, '-inf', '(' .. before, 'LIMIT', 0, SCAN)
for _, id in ipairs(old) do
  local about = named(read('HGETALL', submission_key(id)))
  local review = review_of(about)
  if review and call('HGET', review_key(review), 'submission') == id then
    call('HDEL', review_key(review), 'submission')
  end
  if about.app_id and about.poi_id then
    call('ZREM', pictures_key(about.app_id, about.poi_id), id)
  end
  if about.client_reference then
    call('ZREM', reference_key(about.client_reference), id)
  end
  remove_nameless(id)
  call('ZREM', ALL, id)
  call('ZREM', DECIDED, id)
  call('DEL', submission_key(id))
end

-- Sent writes that have not finished are in neither set, so they stay.
local writes = 0
for _, set in ipairs({ FINISHED, CLAIMS }) do
  local over = '(' .. time - tonumber(ARGV[2])
  for _, id in ipairs(call('ZRANGEBYSCORE', set, '-inf', over, 'LIMIT', 0, SCAN)) do
    delete_write(id)
    writes = writes + 1
  end
end

-- Authorizers are deleted from the one whose authorization ended first.
local ended = call('ZRANGEBYSCORE', UNAUTHORIZED, '-inf', '(' .. math.floor(before / 1000), 'LIMIT', 0, SCAN)
for _, member in ipairs(ended) do
  local platform, app_id = member:match('^(.-):(.*)$')
  call('DEL', authorizer_key(platform, app_id))
  call('ZREM', authorizers_key(platform), app_id)
  call('ZREM', UNAUTHORIZED, member)
end
return events + #old + writes + #ended
