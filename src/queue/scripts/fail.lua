-- fail: an attempt ended without a result; the job is tried again, after a while.
--
-- KEYS  job:<name>
-- ARGV  prefix, name, token, worker, delay ms, counted (1|0), code, history line, what memory
--       it needs, alone, in bytes ('' where that is not known)
-- Returns accepted | repeated | stale, as `finish` does.

local name, token, worker = ARGV[2], ARGV[3], ARGV[4]

begin()
if not holds(name, token) then
  return refusal(name, token, worker)
end
drop_lease(name, token, worker)
remember(name, ARGV[8])
call('HSET', KEYS[1], 'settled', token, 'code', ARGV[7])
if ARGV[9] ~= '' then
  call('HSET', KEYS[1], 'needs', ARGV[9])
end
if ARGV[6] == '1' then
  tenant_failed(tenant_of(name))
else
  call('HINCRBY', KEYS[1], 'attempts', -1)
  call('HINCRBY', KEYS[1], 'tries', 1)
end
local priority, delay = call('HGET', KEYS[1], 'priority'), tonumber(ARGV[5])
-- One that somebody cancelled meanwhile is not waited for: the next claim ends it.
if delay > 0 and call('HEXISTS', KEYS[1], 'cancel') == 0 then
  call('HSET', KEYS[1], 'state', 'delayed')
  call('ZADD', P .. 'delayed', now() + delay, name)
  place(tenant_of(name))
else
  make_ready(name, priority, true)
end
ring_bells()
event('retried', name, ARGV[7])
return 'accepted'
