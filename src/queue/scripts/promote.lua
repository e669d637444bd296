-- promote: delayed jobs whose time has come are ready.
--
-- KEYS  delayed
-- ARGV  prefix
-- Returns how many. At most 100 a call.

local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, 100)
if #names == 0 then
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
