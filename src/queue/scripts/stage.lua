-- stage: takes one element of an inbox into a worker's stage, as BRPOPLPUSH
-- does, where Redis is full and refuses that: what waits must be drained.
--
-- KEYS  inbox, stage
-- ARGV  prefix
-- Returns 1 where there is an element in the stage now, else 0.

begin()
if call('EXISTS', KEYS[2]) == 0 then
  call('RPOPLPUSH', KEYS[1], KEYS[2])
end
return call('EXISTS', KEYS[2])
