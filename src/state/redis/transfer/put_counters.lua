-- Stores counters.
for new in rows() do
  call('SET', key('spent', new.name), new.spent)
  call('PEXPIREAT', key('spent', new.name), new['until'])
end
return 1
