-- register: this worker is listed among the living, or says goodbye. A script,
-- since a full Redis refuses the plain command, and what it holds must be drained.
--
-- KEYS  workers, worker:<id>
-- ARGV  prefix, worker, ms for which it has been silent ('': it lives)
-- Returns 1. Never makes a worker that is listed look fresher than its heartbeat.

begin()
if ARGV[3] == '' then
  call('ZADD', KEYS[1], 'NX', now(), ARGV[2])
else
  call('ZADD', KEYS[1], now() - tonumber(ARGV[3]), ARGV[2])
  call('UNLINK', KEYS[2])
end
return 1
