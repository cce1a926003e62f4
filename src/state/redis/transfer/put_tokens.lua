-- Stores tokens. One that was dropped has no value.
for new in rows() do
  local token = key('token', new.app_id)
  call('HSET', token, 'generation', new.generation, 'since', new.since, 'over', new['until'])
  if new.value ~= '' then
    call('HSET', token, 'value', new.value)
  end
end
return 1
