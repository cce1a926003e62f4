-- Stores leases.
for new in rows() do
  call('HSET', key('lease', new.name), 'fence', new.fence, 'held', new.held == '1' and new.fence or '',
    'over', new['until'])
end
return 1
