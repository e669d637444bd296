-- reject: an element that cannot be a job leaves its stage, and its producer is
-- told where a name could be read in it.
--
-- KEYS  stage, job:<name> or a key that is never written where there is no name,
--       reply:<name> or the same, malformed, the stage's inbox
-- ARGV  prefix, name ('': unreadable), code, reply line, reply ttl ms, reply_to ('': none),
--       worker, turn
-- Returns replied | unanswered | gone.
-- Never touches the reply of a living or ended job of the same name.

begin()
if last_turn(ARGV[7], KEYS[5]) >= tonumber(ARGV[8]) or call('EXISTS', KEYS[1]) == 0 then
  return 'gone'
end
only_the_latest(KEYS[1], KEYS[5])
dealt_with(ARGV[7], KEYS[5], ARGV[8])
call('UNLINK', KEYS[1])
event('rejected', ARGV[2], ARGV[3])
if ARGV[2] ~= '' then
  local taken = living(call('HGET', KEYS[2], 'state')) or call('EXISTS', KEYS[3]) == 1
  if ARGV[6] ~= '' or not taken then
    answer_producer(ARGV[2], ARGV[4], ARGV[5], ARGV[6])
    return 'replied'
  end
end
call('LPUSH', KEYS[4], ARGV[4])
call('LTRIM', KEYS[4], 0, 999)
call('PEXPIRE', KEYS[4], 86400000)
return 'unanswered'
