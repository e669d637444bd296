-- asset_put: an asset of a tenant takes its place, and the tenant's assets get a new version.
--
-- KEYS  assets:<tenant>, asset:<tenant>, tenant:<tenant>
-- ARGV  prefix, tenant, name, 'type bytes digest', bytes, version, content, then what no
--       configuration allows to exceed: bytes of one, number, bytes together
-- Returns {added | replaced | asset_bytes | tenant_assets | tenant_asset_bytes, what there
-- would be then, what is allowed}; of the last three nothing was touched.
-- A full Redis refuses it: unlike others it does not begin with a write that takes nothing.

local tenant, name, bytes = ARGV[2], ARGV[3], tonumber(ARGV[5])
local count, sum, outcome = 1, bytes, 'added'
local all = call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] == name then
    outcome = 'replaced'
  else
    count = count + 1
    sum = sum + number(string.match(all[i + 1], '^%S+ (%d+)'))
  end
end
for i, check in ipairs({ { 'asset_bytes', bytes }, { 'tenant_assets', count }, { 'tenant_asset_bytes', sum } }) do
  local most, ceiling = limit(check[1]), tonumber(ARGV[7 + i])
  if most == 0 or most > ceiling then
    most = ceiling
  end
  if check[2] > most then
    return { check[1], check[2], most }
  end
end
call('HSET', KEYS[2], name, ARGV[7])
call('HSET', KEYS[1], name, ARGV[4] .. ' ' .. now())
call('HSET', KEYS[3], 'assets', ARGV[6])
call('ZADD', P .. 'tenants', 'NX', now(), tenant)
event('configured', '', tenant .. ' assets')
return { outcome, 0, 0 }
