-- release: an attempt was interrupted: the job is ready again at once, at the
-- front of its list, and the attempt does not count.
--
-- KEYS  job:<name>
-- ARGV  prefix, name, token, worker, code, crashed (1|0: a browser died while it had the
--       job; a job that keeps killing them ends as poison), history line, what memory it
--       needs, alone, in bytes ('' where that is not known), unbegun (1|0: nothing of the
--       attempt was done, so that its deadline holds still)
-- Returns accepted | repeated | stale, as `finish` does.

local name, token, worker = ARGV[2], ARGV[3], ARGV[4]

begin()
if not holds(name, token) then
  return refusal(name, token, worker)
end
drop_lease(name, token, worker)
remember(name, ARGV[7])
call('HSET', KEYS[1], 'settled', token)
call('HINCRBY', KEYS[1], 'attempts', -1)
if ARGV[8] ~= '' then
  call('HSET', KEYS[1], 'needs', ARGV[8])
end
if ARGV[9] == '1' then
  not_begun(name)
end
if ARGV[6] == '1' then
  call('HINCRBY', KEYS[1], 'crashes', 1)
end
make_ready(name, call('HGET', KEYS[1], 'priority'), true)
ring_bells()
event('released', name, ARGV[5])
return 'accepted'
