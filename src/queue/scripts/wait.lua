-- wait: a leased job waits for memory and has not begun, or begins now. Only where it
-- waited for long it is told: if its worker dies, `reap` must know that it had no part in it.
--
-- KEYS  job:<name>
-- ARGV  prefix, name, token, begins (1|0)
-- Returns 1; 0 where the lease is lost.

begin()
if not holds(ARGV[2], ARGV[3]) then
  return 0
end
if ARGV[4] == '1' then
  call('HSET', KEYS[1], 'waits', '0')
elseif not call('HGET', KEYS[1], 'waits') then
  -- One that has begun waits no more, whichever call comes first.
  call('HSET', KEYS[1], 'waits', '1')
end
return 1
