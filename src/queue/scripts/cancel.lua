-- cancel: a job that waits ends at once; of one that runs, its worker is told.
--
-- KEYS  job:<name>
-- ARGV  prefix, name, digest of what the caller has read, reply line ('': no reply),
--       reply ttl ms, retain ms, reply_to ('': none)
-- Returns {outcome, detail}:
--   cancelled  it was waiting, and has ended
--   stopping   it runs; the worker in `detail` was told, and ends it
--   ended      it had ended before, as `detail` says
--   changed    another document stands under this name now: look again
--   unknown    there is no such job
-- Asking twice is safe.

local name = ARGV[2]
local f = call('HMGET', KEYS[1], 'state', 'digest', 'worker', 'token', 'priority')
if not f[1] then
  return { 'unknown', '' }
end
if not living(f[1]) then
  return { 'ended', f[1] }
end
if f[2] ~= ARGV[3] then
  return { 'changed', '' }
end
begin()
if f[1] == 'leased' then
  call('HSET', KEYS[1], 'cancel', '1')
  local control = P .. 'ctl:' .. f[3]
  call('RPUSH', control, cjson.encode({ command = 'cancel', job = name, token = f[4] }))
  call('PEXPIRE', control, 60000)
  event('cancelling', name, f[3])
  return { 'stopping', f[3] }
end
-- In a ready list its name stays behind: whoever takes it skips it. At the end it
-- is taken away, so that no list grows by pushing and cancelling again and again.
local list = P .. 'ready:' .. f[5] .. ':' .. tenant_of(name)
if call('LINDEX', list, -1) == name then
  call('RPOP', list)
end
call('ZREM', P .. 'delayed', name)
end_job(name, 'cancelled', 'cancelled', '', math.max(tonumber(ARGV[6]), 60000))
if ARGV[4] ~= '' then
  answer_producer(name, ARGV[4], ARGV[5], ARGV[7])
end
return { 'cancelled', '' }
