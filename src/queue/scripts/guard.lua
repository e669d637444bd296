-- guard: whether housekeeping may believe Redis' clock. Called before every
-- round of it.
--
-- Some worker keeps house each second. If more than the grace has passed since
-- the last time, Redis was away, or its clock was set forward: living workers
-- have not had the time to renew their leases. If the clock went back, what was
-- stamped before seems to last for longer than it should. Either way nothing is
-- reaped, expired or promoted for as long as a living worker needs to be heard.
--
-- KEYS  state, leased, workers
-- ARGV  prefix, grace ms, lease ms
-- Returns {1 where housekeeping may go on, else 0; why nothing is claimed ('': it is);
-- bytes of results that are held}.

local at, grace, lease_ms = now(), tonumber(ARGV[2]), tonumber(ARGV[3])
local f = call('HMGET', KEYS[1], 'seen', 'held_from', 'hold_until')
local seen, held_from, hold_until = tonumber(f[1] or at), number(f[2]), number(f[3])
begin()
call('HSET', KEYS[1], 'seen', at)
if at - seen > grace or seen - at > grace then
  held_from, hold_until = at, at + grace
  call('HSET', KEYS[1], 'held_from', held_from, 'hold_until', hold_until)
  event('clock', '', at > seen and 'gap' or 'back')
end
if seen - at > grace then
  for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[2], at + lease_ms, '+inf', 'LIMIT', 0, 1000)) do
    call('ZADD', KEYS[2], at + lease_ms, name)
  end
  for _, worker in ipairs(call('ZRANGEBYSCORE', KEYS[3], at, '+inf', 'LIMIT', 0, 1000)) do
    call('ZADD', KEYS[3], at, worker)
  end
end
-- A hold that began later than now is from before the clock went back.
local sound = at < held_from or at >= hold_until
return { sound and 1 or 0, paused() or '', math.max(number(call('HGET', KEYS[1], 'held')), 0) }
