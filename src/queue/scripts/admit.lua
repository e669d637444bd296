-- admit: a validated element leaves its stage and becomes a job; with a token,
-- the next ready job (this one, if nothing stands before it) is claimed as well.
--
-- KEYS  stage, job:<name>, doc:<name>, reply:<name>, pdf:<name>, result:<name>, its inbox
-- ARGV  prefix, name, priority, digest, bytes, delay ms, deadline ms (0: none),
--       max attempts, reply ttl ms, reply_to ('': none), max jobs,
--       worker, token ('': do not claim), lease ms
-- Returns {outcome, claim or false}:
--   admitted   the document was moved by RENAME and the job is ready or delayed
--   duplicate  the same content under the same name is alive
--   held       it has ended, and its result is held: answered from that
--   conflict   other content under this name is alive; nothing was touched but the stage
--   full       too many jobs; the stage was left for `reject`, and nothing was claimed
--   gone       the stage is empty: another worker admitted it, or a reply was lost
-- Never overwrites a living job, never looks into a document.

local name, priority, digest = ARGV[2], ARGV[3], ARGV[4]
local worker, token, lease_ms = ARGV[12], ARGV[13], tonumber(ARGV[14])

local function answer(outcome)
  if token == '' then
    return { outcome, false }
  end
  return { outcome, claim(worker, token, lease_ms) }
end

if call('EXISTS', KEYS[1]) == 0 then
  return answer('gone')
end
only_the_latest(KEYS[1], KEYS[7])

local old = call('HMGET', KEYS[2], 'state', 'digest')
if living(old[1]) then
  call('UNLINK', KEYS[1])
  if old[2] == digest then
    event('duplicate', name, 'alive')
    return answer('duplicate')
  end
  event('refused', name, 'id_conflict')
  return answer('conflict')
end
if old[1] and old[2] == digest then
  local line = call('GET', KEYS[6])
  if call('EXISTS', KEYS[4]) == 1 or (line and call('EXISTS', KEYS[5]) == 1) then
    call('UNLINK', KEYS[1])
    if line and ARGV[10] ~= '' then
      local list = P .. 'replies:' .. ARGV[10]
      call('LPUSH', list, line)
      keep(list, ARGV[9])
    elseif call('EXISTS', KEYS[4]) == 0 then
      call('RPUSH', KEYS[4], line)
      call('PEXPIRE', KEYS[4], ARGV[9])
    end
    event('duplicate', name, 'held')
    return answer('held')
  end
end
if tonumber(call('HGET', P .. 'state', 'jobs') or '0') >= tonumber(ARGV[11]) then
  return { 'full', false }
end

local at = now()
local delay, deadline = tonumber(ARGV[6]), tonumber(ARGV[7])
-- What is left under this name makes room: of an ended job, of one whose record
-- ran out before its reply, of a rejected push. Whoever waits now waits for the new job.
call('UNLINK', KEYS[2], KEYS[4], KEYS[5], KEYS[6])
call('ZREM', P .. 'dead', name)
call('RENAME', KEYS[1], KEYS[3])
call('PERSIST', KEYS[3])
call('HSET', KEYS[2], 'state', 'ready', 'priority', priority, 'digest', digest, 'bytes', ARGV[5],
  'attempts', '0', 'max', ARGV[8], 'admitted', at, 'deadline', deadline > 0 and at + deadline or 0)
call('HINCRBY', P .. 'state', 'jobs', 1)
call('HINCRBY', P .. 'state', 'bytes', ARGV[5])
if delay > 0 then
  call('HSET', KEYS[2], 'state', 'delayed')
  call('ZADD', P .. 'delayed', at + delay, name)
else
  make_ready(name, priority, false)
end
event('admitted', name, priority)
if token == '' and delay == 0 then
  ring_bell()
end
return answer('admitted')
