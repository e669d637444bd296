-- retry: an attempt ended without a result; the job is ready again, now or later.
-- Serves release too (not counted, at once, at the front of its list).
--
-- KEYS  job:<name>
-- ARGV  prefix, name, token, worker, delay ms, counted (1|0), code, crashed (1|0: the
--       whole browser died while it had the job; a job that keeps killing them ends as poison)
-- Returns accepted | repeated | stale, as finish does.

local name, token, worker = ARGV[2], ARGV[3], ARGV[4]
if not holds(name, token) then
  call('HDEL', P .. 'claims:' .. worker, token)
  return call('HGET', KEYS[1], 'settled') == token and 'repeated' or 'stale'
end
drop_lease(name, token, worker)
call('HSET', KEYS[1], 'settled', token)
if ARGV[6] == '0' then
  call('HINCRBY', KEYS[1], 'attempts', -1)
end
if ARGV[8] == '1' then
  call('HINCRBY', KEYS[1], 'crashes', 1)
end
local delay = tonumber(ARGV[5])
if delay > 0 then
  call('HSET', KEYS[1], 'state', 'delayed')
  call('ZADD', P .. 'delayed', now() + delay, name)
else
  make_ready(name, call('HGET', KEYS[1], 'priority'), true)
  ring_bell()
end
event(ARGV[6] == '0' and 'released' or 'retried', name, ARGV[7])
return 'accepted'
