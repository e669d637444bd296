-- claim: leases the next ready job to a worker.
--
-- KEYS  –
-- ARGV  prefix, worker, token, lease ms, bulk (1|0: may a bulk job be claimed)
-- Returns false, or {name, attempts, max attempts, admitted ms, deadline ms, crashes,
-- priority, now ms, cancelled (1|0), uncounted failures, bytes that it needs, alone (0: not
-- known), the tenant's isolation and scripts ('': not decided) and the version of its assets
-- ('': none)}. The same token gets the same job again.

begin()
return claim(ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5])
