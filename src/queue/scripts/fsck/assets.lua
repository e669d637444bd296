-- fsck/assets: whether each asset has its entry and its content, and the tenant a
-- version exactly where it has assets.
--
-- What lacks either half is removed: a document that asks for it is told so. The other
-- assets stay.
--
-- KEYS  –
-- ARGV  prefix, repair (1|0), version for whoever needs one, then tenants, at most 100
-- Returns code, what, 1 where it was mended else 0; and so on.

local repair = ARGV[2] == '1'
local found = {}

local function say(what)
  found[#found + 1] = 'asset'
  found[#found + 1] = what
  found[#found + 1] = repair and '1' or '0'
end

-- A key of another type has been told of already.
local function is_ours(key)
  local kind = call('TYPE', key).ok
  return kind == 'hash' or kind == 'none'
end

if repair then
  begin()
end
for i = 4, math.min(#ARGV, 103) do
  local tenant = ARGV[i]
  local list, contents, set = P .. 'assets:' .. tenant, P .. 'asset:' .. tenant, P .. 'tenant:' .. tenant
  if is_ours(list) and is_ours(contents) and is_ours(set) then
    local changed = false
    local function drop(name)
      say(tenant .. ' ' .. name)
      changed = true
      if repair then
        call('HDEL', list, name)
        call('HDEL', contents, name)
      end
    end
    local all = call('HGETALL', list)
    for j = 1, #all, 2 do
      local bytes = string.match(all[j + 1], '^%S+ (%d+) %x+ %d+$')
      if not bytes or call('HSTRLEN', contents, all[j]) ~= tonumber(bytes) then
        drop(all[j])
      end
    end
    for _, name in ipairs(call('HKEYS', contents)) do
      if call('HEXISTS', list, name) == 0 then
        -- With repair, what was dropped above is not here any more.
        drop(name)
      end
    end
    local version = call('HGET', set, 'assets')
    local has = call('EXISTS', list) == 1
    if has ~= (version and version ~= '' or false) and not changed then
      say(tenant)
      changed = true
    end
    if repair and changed then
      if has then
        call('HSET', set, 'assets', ARGV[3] .. i)
        call('ZADD', P .. 'tenants', 'NX', now(), tenant)
      else
        call('HDEL', set, 'assets')
      end
    end
  end
end
return found
