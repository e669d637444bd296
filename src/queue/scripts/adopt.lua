-- adopt: what a silent worker has in its stages goes back to the inboxes, from
-- where any live worker admits it. A worker that is silent for long, with
-- empty stages, is forgotten; if it lives after all, its next heartbeat lists it again.
--
-- KEYS  workers, in, in:bulk
-- ARGV  prefix, silent after ms, forgotten after ms
-- Returns how many elements went back. At most 100 workers a call: those that
-- fell silent last, so that many older ones do not keep a newer one's element;
-- and 100 are forgotten, those that have been silent for longest.
-- Never touches the stage of a worker that was heard of lately.

local at = now()
local moved = 0
local function empty_hands(worker)
  begin()
  local stages = { [P .. 'stage:' .. worker] = KEYS[2], [P .. 'stage:bulk:' .. worker] = KEYS[3] }
  for stage, inbox in pairs(stages) do
    for _ = 1, 10 do
      if call('EXISTS', stage) == 0 then
        break
      end
      call('RPOPLPUSH', stage, inbox)
      moved = moved + 1
      event('adopted', '', worker)
    end
  end
end

for _, worker in ipairs(call('ZREVRANGEBYSCORE', KEYS[1], at - ARGV[2], '-inf', 'LIMIT', 0, 100)) do
  empty_hands(worker)
end
for _, worker in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. at - ARGV[3], 'LIMIT', 0, 100)) do
  empty_hands(worker)
  call('ZREM', KEYS[1], worker)
  call('UNLINK', P .. 'ctl:' .. worker, P .. 'claims:' .. worker, P .. 'turns:' .. worker)
end
return moved
