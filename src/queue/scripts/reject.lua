-- reject: an element that cannot be a job leaves its stage, and its producer is
-- told where a name could be read in it.
--
-- KEYS  stage, job:<name> or a key that is never written where there is no name,
--       reply:<name> or the same, malformed, the stage's inbox
-- ARGV  prefix, name ('': unreadable), code, reply line, reply ttl ms, reply_to ('': none)
-- Returns replied | unanswered | gone.
-- Never touches the reply of a living or ended job of the same name.

if call('EXISTS', KEYS[1]) == 0 then
  return 'gone'
end
only_the_latest(KEYS[1], KEYS[5])
call('UNLINK', KEYS[1])
event('rejected', ARGV[2], ARGV[3])
if ARGV[2] ~= '' then
  if ARGV[6] ~= '' then
    local list = P .. 'replies:' .. ARGV[6]
    call('LPUSH', list, ARGV[4])
    keep(list, ARGV[5])
    return 'replied'
  end
  if not living(call('HGET', KEYS[2], 'state')) and call('EXISTS', KEYS[3]) == 0 then
    call('RPUSH', KEYS[3], ARGV[4])
    call('PEXPIRE', KEYS[3], ARGV[5])
    return 'replied'
  end
end
call('LPUSH', KEYS[4], ARGV[4])
call('LTRIM', KEYS[4], 0, 999)
call('PEXPIRE', KEYS[4], 86400000)
return 'unanswered'
