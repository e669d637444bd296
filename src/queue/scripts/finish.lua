-- finish: a job ends for good, its result becomes the reply; with a next token
-- the next ready job is claimed in the same call.
--
-- KEYS  job:<name>, doc:<name>, out:<token> (the result, pushed just before),
--       reply:<name>, pdf:<name>, result:<name>
-- ARGV  prefix, name, token, worker, status (done|dead|expired), kind
--       (reply: `out` is the whole reply; stored: `out` is the PDF; none: no `out`),
--       reply line, reply ttl ms, stored ttl ms, retain ms, reply_to ('': none), code,
--       next token ('': do not claim), lease ms
-- Returns {outcome, claim or false}:
--   accepted  the one result of this job
--   repeated  this token's result was accepted before: a reply was lost
--   stale     another attempt owns the job: nothing was written
--   missing   `out` is not there: send it again
-- Never accepts two results of one job.

local name, token, worker, status, kind = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local function answer(outcome)
  if ARGV[13] == '' then
    return { outcome, false }
  end
  return { outcome, claim(worker, ARGV[13], tonumber(ARGV[14])) }
end

if not holds(name, token) then
  call('UNLINK', KEYS[3])
  if call('HGET', KEYS[1], 'settled') == token then
    return answer('repeated')
  end
  call('HDEL', P .. 'claims:' .. worker, token)
  return answer('stale')
end
if kind ~= 'none' and call('EXISTS', KEYS[3]) == 0 then
  return { 'missing', false }
end

-- Room first: what is freed here pays for what is written below.
local retain = math.max(tonumber(ARGV[10]), 60000)
if status == 'dead' then
  call('PEXPIRE', KEYS[2], retain)
else
  call('UNLINK', KEYS[2])
end
local bytes = tonumber(call('HGET', KEYS[1], 'bytes') or '0')
drop_lease(name, token, worker)
call('HSET', KEYS[1], 'state', status, 'settled', token)
call('PEXPIRE', KEYS[1], retain)
call('HINCRBY', P .. 'state', 'jobs', -1)
call('HINCRBY', P .. 'state', 'bytes', -bytes)
call('HINCRBY', P .. 'state', 'ended:' .. status, 1)
if status == 'dead' then
  call('ZADD', P .. 'dead', now() + retain, name)
end

if kind == 'reply' then
  call('RENAME', KEYS[3], KEYS[4])
  call('PEXPIRE', KEYS[4], ARGV[8])
else
  if kind == 'stored' then
    call('RENAME', KEYS[3], KEYS[5])
    call('PEXPIRE', KEYS[5], ARGV[9])
    call('SET', KEYS[6], ARGV[7], 'PX', ARGV[9])
  end
  local list = KEYS[4]
  if ARGV[11] ~= '' then
    list = P .. 'replies:' .. ARGV[11]
  else
    call('UNLINK', list)
  end
  call('LPUSH', list, ARGV[7])
  keep(list, ARGV[8])
end
event(status, name, ARGV[12])
return answer('accepted')
