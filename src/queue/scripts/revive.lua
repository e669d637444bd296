-- revive: a dead letter is a ready job again, with all its attempts before it.
-- An unread reply is taken away: whoever waits now waits for the new one.
--
-- KEYS  job:<name>, doc:<name>
-- ARGV  prefix, name
-- Returns ready | not_dead | body_lost | unknown. The history of its attempts is kept.

local name = ARGV[2]
local f = call('HMGET', KEYS[1], 'state', 'bytes', 'priority')
if not f[1] then
  return 'unknown'
end
if f[1] ~= 'dead' then
  return 'not_dead'
end
if call('EXISTS', KEYS[2]) == 0 then
  return 'body_lost'
end
begin()
call('UNLINK', P .. 'reply:' .. name)
hold('reply:' .. name, 0)
call('ZREM', P .. 'dead', name)
call('HINCRBY', STATE, 'dead_bytes', 0 - number(f[2]))
call('HDEL', KEYS[1], 'code', 'ended', 'settled', 'crashes', 'accepted')
call('HSET', KEYS[1], 'attempts', '0', 'deadline', '0')
count_job(tenant_of(name), number(f[2]), 1)
make_ready(name, f[3], false)
ring_bells()
event('revived', name, '')
return 'ready'
