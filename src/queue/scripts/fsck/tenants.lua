-- fsck/tenants: whether tenants are in the rings where they belong, and on the
-- lists of tenants.
--
-- Only what is certain is said: a cap that stands in the workers' own
-- configuration is not known here, so a tenant with running jobs may rightly be
-- in no ring, and the end of one of them puts it back. With `repair` it is put
-- there at once: at worst it runs one job more, once.
--
-- KEYS  –
-- ARGV  prefix, repair (1|0), then tenants, at most 100
-- Returns code, tenant, 1 where it was mended else 0; and so on.

local repair, at = ARGV[2] == '1', now()
local found = {}

local function say(code, tenant)
  found[#found + 1] = code
  found[#found + 1] = tenant
  found[#found + 1] = repair and '1' or '0'
end

-- Whether a tenant is in or out of a ring against what is known: true, false, or 'maybe'.
local function misplaced(tenant)
  local set = call('HMGET', P .. 'tenant:' .. tenant, 'state', 'running')
  local use = call('HMGET', P .. 'use:' .. tenant, 'running', 'fails')
  local running = number(use[1])
  local cap = number(set[2]) > 0 and number(set[2]) or number(configured('tenant_running'))
  if number(use[2]) >= BROKEN_AFTER then
    cap = 1
  end
  local closed = set[1] == 'paused' or (cap > 0 and running >= cap)
  local maybe = false
  for _, priority in ipairs({ 'interactive', 'bulk' }) do
    local waits = call('EXISTS', P .. 'ready:' .. priority .. ':' .. tenant) == 1
    local inside = call('ZSCORE', P .. 'ring:' .. priority, tenant)
    if inside and (closed or not waits) then
      return true
    end
    if not inside and waits and not closed then
      if running <= 0 or cap > 0 then
        return true
      end
      maybe = 'maybe'
    end
  end
  return maybe
end

if repair then
  begin()
end
for i = 3, math.min(#ARGV, 102) do
  local tenant = ARGV[i]
  local wrong = misplaced(tenant)
  if wrong and repair then
    place(tenant)
  end
  if wrong == true then
    say('ring', tenant)
  end
  local use = call('HMGET', P .. 'use:' .. tenant, 'jobs', 'fails')
  local is_broken = number(use[2]) >= BROKEN_AFTER
  if is_broken ~= (call('SISMEMBER', P .. 'broken', tenant) == 1) then
    if repair and is_broken then
      call('SADD', P .. 'broken', tenant)
    elseif repair then
      call('SREM', P .. 'broken', tenant)
    end
    say('breaker', tenant)
  end
  if number(use[1]) > 0 and call('PTTL', P .. 'use:' .. tenant) >= 0 then
    if repair then
      call('PERSIST', P .. 'use:' .. tenant)
    end
    say('ttl', tenant)
  end
  if number(use[1]) > 0 and not call('ZSCORE', P .. 'tenants', tenant) then
    if repair then
      call('ZADD', P .. 'tenants', at, tenant)
    end
    say('tenant_unlisted', tenant)
  end
end
if repair then
  ring_bells()
end
return found
