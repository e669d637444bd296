-- renew: one heartbeat: the worker is alive and keeps its leases.
--
-- KEYS  workers, worker:<id>
-- ARGV  prefix, worker, description (JSON), lease ms, then name and token of each lease
-- Returns the tokens whose lease is lost: their renders must stop, and may write nothing.

local at = now()
call('ZADD', KEYS[1], at, ARGV[2])
call('SET', KEYS[2], ARGV[3], 'PX', 86400000)
local lost = {}
for i = 5, #ARGV, 2 do
  if holds(ARGV[i], ARGV[i + 1]) then
    call('ZADD', P .. 'leased', 'XX', at + tonumber(ARGV[4]), ARGV[i])
  else
    lost[#lost + 1] = ARGV[i + 1]
  end
end
return lost
