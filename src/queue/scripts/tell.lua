-- tell: a command to one worker. A script, since a full Redis refuses the plain
-- push, and that is when an operator has something to say.
--
-- KEYS  ctl:<worker>
-- ARGV  prefix, the command (JSON)
-- Returns 1. What nobody reads within a minute is forgotten.

begin()
call('RPUSH', KEYS[1], ARGV[2])
call('PEXPIRE', KEYS[1], 60000)
return 1
