-- finish: a job ends with a PDF, which becomes the reply or is stored; with a
-- next token the next ready job is claimed in the same call.
--
-- KEYS  job:<name>, out:<token> (the result, pushed just before), reply:<name>,
--       pdf:<name>, result:<name>
-- ARGV  prefix, name, token, worker, kind (reply: `out` is the whole reply, a list of
--       one; stored: `out` is the PDF, a string), its bytes, reply line, reply ttl ms,
--       stored ttl ms, retain ms, reply_to ('': none), the result itself ('': it is in
--       `out`; a full Redis takes it only this way),
--       next token ('': do not claim), lease ms, bulk (1|0)
-- Returns {outcome, claim or false}:
--   accepted  the one result of this job
--   repeated  this token's result was accepted before: a reply was lost
--   stale     another attempt owns the job: nothing was written
--   missing   `out` is not there: send it again
-- Never accepts two results of one job.

local name, token, worker, kind, bytes = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local inline = ARGV[12]

local function answer(outcome)
  if ARGV[13] == '' then
    -- A tenant at its cap may have room again.
    ring_bells()
    return { outcome, false }
  end
  return { outcome, claim(worker, ARGV[13], tonumber(ARGV[14]), ARGV[15]) }
end

begin()
if not holds(name, token) then
  call('UNLINK', KEYS[2])
  return answer(refusal(name, token, worker))
end
if inline == '' and call('EXISTS', KEYS[2]) == 0 then
  return { 'missing', false }
end

drop_lease(name, token, worker)
end_job(name, 'done', 'ok', token, math.max(tonumber(ARGV[10]), 60000))
local target, ttl = KEYS[3], ARGV[8]
if kind == 'stored' then
  target, ttl = KEYS[4], ARGV[9]
end
if inline == '' then
  call('RENAME', KEYS[2], target)
elseif kind == 'stored' then
  call('SET', target, inline)
else
  call('UNLINK', target)
  call('RPUSH', target, inline)
end
call('PEXPIRE', target, ttl)
hold(kind == 'stored' and 'pdf:' .. name or 'reply:' .. name, bytes)
if kind == 'stored' then
  call('SET', KEYS[5], ARGV[7], 'PX', ttl)
  answer_producer(name, ARGV[7], ARGV[8], ARGV[11])
end
return answer('accepted')
