-- adopt: what a silent worker has in its stages goes back to the inboxes, from
-- where any live worker admits it. A worker that is silent for long, with
-- empty stages, is forgotten; if it lives after all, its next heartbeat lists it again.
--
-- KEYS  workers, in, in:bulk
-- ARGV  prefix, silent after ms, forgotten after ms
-- Returns how many elements went back. At most 100 workers a call.
-- Never touches the stage of a worker that was heard of lately.

local at = now()
local moved = 0
for _, worker in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', at - ARGV[2], 'LIMIT', 0, 100)) do
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
  if tonumber(call('ZSCORE', KEYS[1], worker)) < at - ARGV[3] then
    call('ZREM', KEYS[1], worker)
    call('UNLINK', P .. 'ctl:' .. worker, P .. 'claims:' .. worker, P .. 'turns:' .. worker)
  end
end
return moved
