-- Stores authorizers. They have `damaged` if a copy of them must be damaged, too.
for new in rows() do
  new.revision = next_revision(nil)
  store_authorizer(new)
  if new.damaged == '1' then
    call('HSET', authorizer_key(new.platform, new.app_id), 'sum', 'damaged')
  end
end
return 1
