-- fsck/requeue: a job that waits, and that no list has, gets its place: a ready
-- one at the front of its tenant's list, a delayed one its time.
--
-- KEYS  job:<name>
-- ARGV  prefix, repair (1|0), name, then state, admitted and claimed as they were when it
--       was looked for, time at which a delayed one is due (0: now)
-- Returns 1 where it still waits as it did then, else 0: somebody moved it, so all is well.

local name, state = ARGV[3], ARGV[4]
local f = call('HMGET', KEYS[1], 'state', 'admitted', 'claimed', 'priority')
if f[1] ~= state or (f[2] or '') ~= ARGV[5] or (f[3] or '') ~= ARGV[6] then
  return 0
end
if state == 'delayed' and call('ZSCORE', P .. 'delayed', name) then
  return 0
end
if ARGV[2] == '1' then
  begin()
  if state == 'delayed' then
    call('ZADD', P .. 'delayed', ARGV[7], name)
  else
    make_ready(name, f[4], true)
    ring_bells()
  end
end
return 1
