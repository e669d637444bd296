-- fsck/recount: counters of a tenant, or of the queue, are put right by the
-- difference that was found, so that what happened since is not undone.
--
-- KEYS  use:<tenant>, or state
-- ARGV  prefix, tenant ('': the queue), then field and difference of each
-- Returns 1.

local tenant = ARGV[2]
begin()
for i = 3, #ARGV, 2 do
  call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
if tenant ~= '' then
  -- Puts the key's time to live right, too: as if a job of no bytes had come and gone.
  count_job(tenant, 0, 1)
  call('PERSIST', KEYS[1])
  count_job(tenant, 0, -1)
  if call('EXISTS', KEYS[1]) == 1 then
    call('ZADD', P .. 'tenants', 'NX', now(), tenant)
  end
  place(tenant)
  ring_bells()
end
return 1
