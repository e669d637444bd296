-- Ready jobs: a list per tenant and priority, and a ring per priority in which
-- tenants take turns by virtual time.
--
-- A tenant is in a ring exactly when it has ready jobs of that priority, runs
-- fewer than its cap, and is not paused. Whatever changes one of these calls
-- `place`. Lists may hold names of jobs that are no longer ready (cancelled,
-- expired): whoever takes one skips it.

-- So many attempts in a row failed: the tenant's template is broken.
local BROKEN_AFTER = 20
local DAY_MS = 86400000
local LINGER_MS = 60000

-- One token at the most: a bell that has not been heard need not ring again.
local function ring_bell(priority)
  local bell = priority == 'bulk' and P .. 'bell:bulk' or P .. 'bell'
  if call('EXISTS', bell) == 0 then
    call('RPUSH', bell, '1')
  end
end

-- Whether a ring has tenants: asked for once, and again when one was taken out.
local rings = {}
local function has_tenants(priority)
  if rings[priority] == nil then
    rings[priority] = call('EXISTS', P .. 'ring:' .. priority) == 1
  end
  return rings[priority]
end

local function ring_bells()
  if has_tenants('interactive') then
    ring_bell('interactive')
  end
  if has_tenants('bulk') then
    ring_bell('bulk')
  end
end

-- Puts a tenant into the rings where it belongs, at the present virtual time,
-- so that idleness banks no credit, and not before its own, so that leaving and
-- coming back gains nothing; takes it out of the others. In the ring of `served` it is
-- known to be.
local function place(tenant, served)
  local set = settings_at('tenant:' .. tenant)
  local use = call('HMGET', P .. 'use:' .. tenant, 'running', 'fails', 'vt:interactive', 'vt:bulk')
  local cap = number(set.running)
  if cap == 0 then
    cap = limit('tenant_running')
  end
  if number(use[2]) >= BROKEN_AFTER then
    cap = 1
  end
  local open = set.state ~= 'paused' and (cap == 0 or number(use[1]) < cap)
  for i, priority in ipairs({ 'interactive', 'bulk' }) do
    local ring = P .. 'ring:' .. priority
    if open and call('EXISTS', P .. 'ready:' .. priority .. ':' .. tenant) == 1 then
      if priority ~= served and not call('ZSCORE', ring, tenant) then
        local vt = number(call('HGET', STATE, 'vt:' .. priority))
        call('ZADD', ring, math.max(vt, number(use[i + 2])), tenant)
        rings[priority] = true
      end
    elseif has_tenants(priority) and call('ZREM', ring, tenant) == 1 then
      rings[priority] = nil
    end
  end
end

-- A ready job has its place at the end of its tenant's list, or at the front.
local function enlist(name, priority, front)
  local tenant = tenant_of(name)
  call(front and 'LPUSH' or 'RPUSH', P .. 'ready:' .. priority .. ':' .. tenant, name)
  place(tenant)
end

-- A living job is ready.
local function make_ready(name, priority, front)
  call('HSET', P .. 'job:' .. name, 'state', 'ready')
  enlist(name, priority, front)
end

-- A tenant's attempt failed, and counts.
local function tenant_failed(tenant)
  if call('HINCRBY', P .. 'use:' .. tenant, 'fails', 1) == BROKEN_AFTER then
    call('SADD', P .. 'broken', tenant)
    event('breaker_opened', '', tenant)
  end
end

local function tenant_succeeded(tenant)
  local fails = number(call('HGET', P .. 'use:' .. tenant, 'fails'))
  if fails > 0 then
    call('HDEL', P .. 'use:' .. tenant, 'fails')
  end
  if fails >= BROKEN_AFTER then
    call('SREM', P .. 'broken', tenant)
    event('breaker_closed', '', tenant)
  end
end

-- Counters of a job that lives from now on (1) or no longer (-1).
local function count_job(tenant, bytes, sign)
  -- Plus nothing: Lua knows a -0, which Redis takes for no number.
  bytes = sign * bytes + 0
  call('HINCRBY', STATE, 'jobs', sign)
  call('HINCRBY', STATE, 'bytes', bytes)
  local use = P .. 'use:' .. tenant
  local jobs = call('HINCRBY', use, 'jobs', sign)
  call('HINCRBY', use, 'bytes', bytes)
  if sign > 0 and jobs == 1 then
    call('PERSIST', use)
  elseif jobs <= 0 then
    -- A broken template stays known for a day. Else nothing is left of an idle
    -- tenant after a while: its virtual time must outlive a pause between two
    -- jobs, or those who push one after the other would starve those who wait.
    call('PEXPIRE', use, call('HEXISTS', use, 'fails') == 1 and DAY_MS or LINGER_MS)
    -- Without a living job its lists hold leftovers only.
    call('UNLINK', P .. 'ready:interactive:' .. tenant, P .. 'ready:bulk:' .. tenant)
  end
end
