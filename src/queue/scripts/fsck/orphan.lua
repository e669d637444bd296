-- fsck/orphan: a document whose record is gone goes back to an inbox, from where
-- a worker admits it again.
--
-- KEYS  job:<name>, doc:<name>, inbox
-- ARGV  prefix, repair (1|0)
-- Returns 1 where it is (or was) an orphan, else 0. Never touches the document of a job.

if call('EXISTS', KEYS[1]) == 1 or call('TYPE', KEYS[2]).ok ~= 'list' then
  return 0
end
if ARGV[2] == '1' then
  begin()
  call('RPOPLPUSH', KEYS[2], KEYS[3])
  call('UNLINK', KEYS[2])
end
return 1
