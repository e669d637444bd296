-- admit: a validated element leaves its stage and becomes a job; with a token,
-- the next ready job (this one, if nothing stands before it) is claimed as well.
--
-- KEYS  stage, job:<name>, doc:<name>, reply:<name>, pdf:<name>, result:<name>, its inbox
-- ARGV  prefix, name, priority, digest, bytes, delay ms, deadline ms (0: none),
--       max attempts, reply ttl ms, reply_to ('': none), worker, turn,
--       token ('': do not claim), lease ms, bulk (1|0: may a bulk job be claimed)
-- Returns {outcome, claim or false}:
--   admitted   the document was moved by RENAME and the job is ready or delayed
--   duplicate  the same content under the same name is alive
--   held       it has ended, and its result is held: answered from that
--   conflict   other content under this name is alive; nothing was touched but the stage
--   queue_full, queue_bytes, tenant_full, tenant_bytes, draining
--              a limit; the stage was left for `reject`, and nothing was claimed
--   gone       the stage is empty, or what is in it came later: another worker
--              admitted it, or a reply was lost
-- Never overwrites a living job, never looks into a document.

local name, priority, digest, bytes = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local worker, turn, token = ARGV[11], ARGV[12], ARGV[13]
local inbox = KEYS[7]
local tenant = tenant_of(name)

local function answer(outcome)
  if token == '' then
    return { outcome, false }
  end
  return { outcome, claim(worker, token, tonumber(ARGV[14]), ARGV[15]) }
end

-- The first limit that this job would exceed, or false.
local function exceeded()
  local queue = call('HMGET', STATE, 'jobs', 'bytes', 'held', 'dead_bytes')
  local set = settings_at('tenant:' .. tenant)
  local use = call('HMGET', P .. 'use:' .. tenant, 'jobs', 'bytes')
  if configured('state') == 'draining' or set.state == 'draining' then
    return 'draining'
  end
  local function over(most, value)
    return most > 0 and value > most
  end
  if over(limit('jobs'), number(queue[1]) + 1) then
    return 'queue_full'
  end
  if over(limit('bytes'), number(queue[2]) + number(queue[3]) + number(queue[4]) + bytes) then
    return 'queue_bytes'
  end
  if over(set.jobs and tonumber(set.jobs) or limit('tenant_jobs'), number(use[1]) + 1) then
    return 'tenant_full'
  end
  if over(set.bytes and tonumber(set.bytes) or limit('tenant_bytes'), number(use[2]) + bytes) then
    return 'tenant_bytes'
  end
  return false
end

begin()
local seen = last_turn(worker, inbox)
if seen > tonumber(turn) then
  -- Whoever called has gone on: nobody waits for a claim under this token.
  return { 'gone', false }
end
if seen == tonumber(turn) or not only_the_latest(KEYS[1], inbox) then
  return answer('gone')
end

local old = call('HMGET', KEYS[2], 'state', 'digest')
if living(old[1]) then
  dealt_with(worker, inbox, turn)
  call('UNLINK', KEYS[1])
  if old[2] == digest then
    event('duplicate', name, 'alive')
    return answer('duplicate')
  end
  event('refused', name, 'id_conflict')
  return answer('conflict')
end
-- A cancelled one is wanted after all.
if old[1] and old[1] ~= 'cancelled' and old[2] == digest then
  local line = call('GET', KEYS[6])
  if call('EXISTS', KEYS[4]) == 1 or (line and call('EXISTS', KEYS[5]) == 1) then
    dealt_with(worker, inbox, turn)
    call('UNLINK', KEYS[1])
    if line and ARGV[10] ~= '' then
      answer_producer(name, line, ARGV[9], ARGV[10])
    elseif call('EXISTS', KEYS[4]) == 0 then
      answer_producer(name, line, ARGV[9], '')
    end
    event('duplicate', name, 'held')
    return answer('held')
  end
end
local too_much = exceeded()
if too_much then
  return { too_much, false }
end

local at = now()
local delay, deadline = tonumber(ARGV[6]), tonumber(ARGV[7])
dealt_with(worker, inbox, turn)
-- What is left under this name makes room: of an ended job, of one whose record
-- ran out before its reply, of a rejected push. Whoever waits now waits for the new job.
if old[1] == 'dead' then
  forget_dead(name)
end
call('UNLINK', KEYS[2], KEYS[4], KEYS[5], KEYS[6], P .. 'history:' .. name)
local held = call('HMGET', P .. 'held', 'reply:' .. name, 'pdf:' .. name)
if held[1] or held[2] then
  hold('reply:' .. name, 0)
  hold('pdf:' .. name, 0)
end
call('RENAME', KEYS[1], KEYS[3])
call('PERSIST', KEYS[3])
call('HSET', KEYS[2], 'state', delay > 0 and 'delayed' or 'ready', 'priority', priority, 'digest', digest,
  'bytes', bytes, 'attempts', '0', 'max', ARGV[8], 'admitted', at, 'deadline', deadline > 0 and at + deadline or 0)
count_job(tenant, bytes, 1)
call('ZADD', P .. 'tenants', at, tenant)
if deadline > 0 then
  call('ZADD', P .. 'deadlines', at + deadline, name)
end
if delay > 0 then
  call('ZADD', P .. 'delayed', at + delay, name)
else
  enlist(name, priority, false)
end
event('admitted', name, priority)
if token == '' then
  ring_bells()
end
return answer('admitted')
