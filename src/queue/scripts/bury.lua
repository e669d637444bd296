-- bury: a job ends without a PDF: a dead letter, expired, or cancelled; with a
-- next token the next ready job is claimed in the same call.
--
-- KEYS  job:<name>
-- ARGV  prefix, name, token, worker, status (dead|expired|cancelled), code, reply line,
--       reply ttl ms, retain ms, reply_to ('': none), history line ('': none),
--       next token ('': do not claim), lease ms, bulk (1|0)
-- Returns {outcome, claim or false}; accepted | repeated | stale, as `finish` does.
-- Never ends a job twice; keeps the document of a dead letter.

local name, token, worker = ARGV[2], ARGV[3], ARGV[4]

local function answer(outcome)
  if ARGV[12] == '' then
    -- A tenant at its cap may have room again.
    ring_bells()
    return { outcome, false }
  end
  return { outcome, claim(worker, ARGV[12], tonumber(ARGV[13]), ARGV[14]) }
end

begin()
if not holds(name, token) then
  return answer(refusal(name, token, worker))
end
drop_lease(name, token, worker)
if ARGV[5] ~= 'dead' then
  -- It expired before it began, or was stopped: the attempt does not count.
  call('HINCRBY', KEYS[1], 'attempts', -1)
end
remember(name, ARGV[11])
end_job(name, ARGV[5], ARGV[6], token, math.max(tonumber(ARGV[9]), 60000))
answer_producer(name, ARGV[7], ARGV[8], ARGV[10])
return answer('accepted')
