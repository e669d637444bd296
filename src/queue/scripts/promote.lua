-- promote: delayed jobs whose time has come are ready.
--
-- KEYS  delayed
-- ARGV  prefix, grace ms
-- Returns how many. At most 100 a call.

local at = now()
local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, 100)
if #names == 0 or not is_heard(at, ARGV[2]) then
  return 0
end
begin()
for _, name in ipairs(names) do
  call('ZREM', KEYS[1], name)
  local f = call('HMGET', P .. 'job:' .. name, 'state', 'priority')
  if f[1] == 'delayed' then
    make_ready(name, f[2], false)
  end
end
ring_bells()
return #names
