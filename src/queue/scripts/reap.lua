-- reap: leases that ran out: their worker died or was cut off. The attempt is
-- not counted, the crash is, so that a job that kills workers comes to an end.
-- Dead letters whose record has run out are forgotten.
--
-- KEYS  leased
-- ARGV  prefix
-- Returns how many jobs are ready again. At most 100 a call, and 100 dead letters.

local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, 100)
for _, name in ipairs(names) do
  local job = P .. 'job:' .. name
  local f = call('HMGET', job, 'state', 'token', 'worker', 'priority')
  call('ZREM', KEYS[1], name)
  if f[1] == 'leased' then
    drop_lease(name, f[2], f[3])
    call('HINCRBY', job, 'attempts', -1)
    call('HINCRBY', job, 'crashes', 1)
    make_ready(name, f[4], true)
    event('reaped', name, 'lease_expired')
  end
end
if #names > 0 then
  ring_bell()
end
for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'dead', '-inf', now(), 'LIMIT', 0, 100)) do
  call('ZREM', P .. 'dead', name)
end
return #names
