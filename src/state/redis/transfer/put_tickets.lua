-- Stores tickets. `life` is their life in milliseconds.
for new in rows() do
  local ticket = ticket_key(new.platform)
  call('HSET', ticket, 'value', new.value, 'sent_at', new.sent_at,
    'sum', ticket_sum(new.platform, new.value, new.sent_at))
  call('PEXPIREAT', ticket, string.format('%.0f', math.min(new.sent_at * 1000, now()) + new.life))
end
return 1
