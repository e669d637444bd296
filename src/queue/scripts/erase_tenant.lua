-- erase_tenant: a tenant without living jobs is forgotten: settings, assets, counters,
-- its place in the rings, what is left of its lists.
--
-- KEYS  –
-- ARGV  prefix, tenant
-- Returns {1, assets}, or {0, 0} where a job of it lives: nothing was touched.

local tenant = ARGV[2]
if number(call('HGET', P .. 'use:' .. tenant, 'jobs')) > 0 then
  return { 0, 0 }
end
begin()
local assets = call('HLEN', P .. 'assets:' .. tenant)
call('UNLINK', P .. 'assets:' .. tenant, P .. 'asset:' .. tenant)
call('UNLINK', P .. 'tenant:' .. tenant, P .. 'use:' .. tenant, P .. 'ready:interactive:' .. tenant,
  P .. 'ready:bulk:' .. tenant)
call('ZREM', P .. 'ring:interactive', tenant)
call('ZREM', P .. 'ring:bulk', tenant)
call('ZREM', P .. 'tenants', tenant)
call('SREM', P .. 'broken', tenant)
return { 1, assets }
