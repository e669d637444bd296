-- promote: delayed jobs whose time has come are ready.
--
-- KEYS  delayed
-- ARGV  prefix
-- Returns how many. At most 100 a call.

local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, 100)
for _, name in ipairs(names) do
  call('ZREM', KEYS[1], name)
  local f = call('HMGET', P .. 'job:' .. name, 'state', 'priority')
  if f[1] == 'delayed' then
    make_ready(name, f[2], false)
  end
end
if #names > 0 then
  ring_bell()
end
return #names
