-- claim: leases the next ready job to a worker.
--
-- KEYS  –
-- ARGV  prefix, worker, token, lease ms
-- Returns false, or {name, attempts, max attempts, admitted ms, deadline ms, crashes, priority, now ms}.
-- The same token gets the same job again.

return claim(ARGV[2], ARGV[3], tonumber(ARGV[4]))
