-- asset_remove: assets of a tenant go; those that are left get a new version.
--
-- KEYS  assets:<tenant>, asset:<tenant>, tenant:<tenant>
-- ARGV  prefix, tenant, version, then names, at most 1000
-- Returns the names that were there.

local removed = {}
begin()
for i = 4, math.min(#ARGV, 1003) do
  if call('HDEL', KEYS[1], ARGV[i]) == 1 then
    removed[#removed + 1] = ARGV[i]
  end
  call('HDEL', KEYS[2], ARGV[i])
end
if call('EXISTS', KEYS[1]) == 0 then
  -- Without a version nobody looks for assets.
  call('HDEL', KEYS[3], 'assets')
elseif #removed > 0 then
  call('HSET', KEYS[3], 'assets', ARGV[3])
end
if #removed > 0 then
  event('configured', '', ARGV[2] .. ' assets')
end
return removed
