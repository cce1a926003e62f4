
-- Returns the number of changes by all processes and by this one, and the answer of the operation.
local answer = operation()
if wrote then
  steps, own = call('HINCRBY', GUARD, 'steps', 1), call('HINCRBY', GUARD, me, 1)
end
return { steps, own, answer }
