-- renew: one heartbeat: the worker is alive and keeps its leases.
--
-- KEYS  workers, worker:<id>
-- ARGV  prefix, worker, description (JSON), lease ms, then name and token of each lease
-- Returns two lists of tokens: whose lease is lost (their renders must stop, and may
-- write nothing), and whose job somebody cancelled.

local at = now()
begin()
call('ZADD', KEYS[1], at, ARGV[2])
call('SET', KEYS[2], ARGV[3], 'PX', 86400000)
local lost, cancelled = {}, {}
for i = 5, #ARGV, 2 do
  local name, token = ARGV[i], ARGV[i + 1]
  if holds(name, token) then
    call('ZADD', P .. 'leased', at + tonumber(ARGV[4]), name)
    if call('HEXISTS', P .. 'job:' .. name, 'cancel') == 1 then
      cancelled[#cancelled + 1] = token
    end
  else
    lost[#lost + 1] = token
  end
end
return { lost, cancelled }
