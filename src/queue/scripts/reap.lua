-- reap: leases that ran out: their worker died or was cut off. The attempt is
-- not counted, the crash is, so that a job that kills workers comes to an end; but
-- not where the job only waited for memory and had not begun.
--
-- KEYS  leased
-- ARGV  prefix, grace ms
-- Returns how many jobs are ready again. At most 100 a call.

local at = now()
local names = call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, 100)
if #names == 0 or not is_heard(at, ARGV[2]) then
  return 0
end
begin()
for _, name in ipairs(names) do
  local job = P .. 'job:' .. name
  local f = call('HMGET', job, 'state', 'token', 'worker', 'priority', 'attempts', 'claimed', 'waits')
  call('ZREM', KEYS[1], name)
  if f[1] == 'leased' and f[2] and f[3] and f[4] then
    local begun = f[7] ~= '1'
    drop_lease(name, f[2], f[3])
    remember(name, cjson.encode({
      at = at, attempt = number(f[5]), worker = f[3], class = 'interrupted', code = 'lease_expired',
      message = begun and 'its worker died, or was cut off from Redis'
        or 'its worker died, or was cut off from Redis, before it began',
      remedy = 'nothing, if it happens once; else look at the memory and the log of that worker',
      duration_ms = at - number(f[6]), counted = false,
    }))
    call('HINCRBY', job, 'attempts', -1)
    if begun then
      call('HINCRBY', job, 'crashes', 1)
    else
      not_begun(name)
    end
    make_ready(name, f[4], true)
    event('reaped', name, 'lease_expired')
  end
end
ring_bells()
return #names
