-- Returns the token of the account ARGV[1] as { value, generation, life, age }, or nothing. With
-- more arguments, first stores a token: the generation that it follows, its value, its life in
-- milliseconds.
local app_id, before, value, life = unpack(ARGV)
local token, time = key('token', app_id), now()
-- `since` is when the value was first stored, `over` the end of its life.
local stored = call('HMGET', token, 'value', 'generation', 'since', 'over')
local old, generation, since, over = unpack(stored)
generation, since, over = tonumber(generation or 0), tonumber(since or 0), tonumber(over or 0)
local whole = generation and generation >= 0 and since and over and (old or over == 0)
if not whole or (old or ''):find('[^ -~]') then
  -- It is damaged. There is less than one token per millisecond, so the next generation is higher than
  -- every earlier one.
  old, generation, since, over = false, time, 0, 0
end

if value and (over <= time or generation == tonumber(before)) then
  over = time + tonumber(life)
  if old ~= value then
    old, generation, since = value, math.max(generation, BASE) + 1, time
  end
  call('HSET', token, 'value', old, 'generation', generation, 'since', since, 'over', over)
elseif over <= time then
  return false
end
-- The clock may have been set back.
return { old, generation, over - time, math.max(time - since, 0) }
