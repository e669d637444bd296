-- The stage: one element of an inbox in one worker's hands.

-- An element is dealt with once: `turn` grows with every element that the
-- worker took. A call that comes late, over a connection that was given up,
-- must not act on the element that came after its own.
local function last_turn(worker, inbox)
  return number(call('HGET', P .. 'turns:' .. worker, inbox))
end

local function dealt_with(worker, inbox, turn)
  call('HSET', P .. 'turns:' .. worker, inbox, turn)
end

-- Whether there is an element in the stage. A connection that died unnoticed may have been
-- handed one more: what lies below the one in hand goes back to its inbox.
local function only_the_latest(stage, inbox)
  local elements = call('LLEN', stage)
  for _ = 1, math.min(elements - 1, 10) do
    call('RPOPLPUSH', stage, inbox)
  end
  return elements > 0
end
