
-- How often the state was changed, also by this process, and the answer of the verb.
local answer = verb()
if wrote then
  steps, own = call('HINCRBY', GUARD, 'steps', 1), call('HINCRBY', GUARD, me, 1)
end
return { steps, own, answer }
