-- fsck/lost: a job that waits, and whose document is gone, ends now: nobody could
-- render it, whenever its turn came.
--
-- KEYS  job:<name>, doc:<name>
-- ARGV  prefix, name, admitted and attempts as they were when it was found so, reply line,
--       reply ttl ms, retain ms
-- Returns 1 where it ended: a dead letter, `body_lost`, and its producer was answered;
-- else 0: it is no longer as it was, and somebody else sees to it.

local name = ARGV[2]
local f = call('HMGET', KEYS[1], 'state', 'admitted', 'attempts')
if not (f[1] == 'ready' or f[1] == 'delayed') or f[2] ~= ARGV[3] or f[3] ~= ARGV[4] then
  return 0
end
if call('EXISTS', KEYS[2]) == 1 then
  return 0
end
begin()
call('ZREM', P .. 'delayed', name)
-- In a ready list its name stays behind, as that of a cancelled job: it is skipped.
end_job(name, 'dead', 'body_lost', '', tonumber(ARGV[7]))
answer_producer(name, ARGV[5], ARGV[6], '')
-- Its tenant's other jobs may have their turn.
ring_bells()
return 1
