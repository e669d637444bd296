-- Claiming: which job is next.

-- Takes the next ready name of one priority, and describes the job; false where there is none,
-- nil where so many leftovers came first that somebody should ask again.
local function take(priority)
  local ring = P .. 'ring:' .. priority
  for _ = 1, 100 do
    local first = call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local tenant = first[1]
    if not tenant then
      return false
    end
    local name = call('LPOP', P .. 'ready:' .. priority .. ':' .. tenant)
    local f = name and described(name) or {}
    -- A name whose record is gone or not ready is a leftover: skip it. So is one
    -- that was pushed again with the other priority: it stands in that list too.
    if f[1] == 'ready' and f[2] == priority then
      local weight = number(settings_at('tenant:' .. tenant).weight)
      local vt = first[2] + 1 / (weight > 0 and weight or 1)
      call('HSET', STATE, 'vt:' .. priority, first[2])
      call('HSET', P .. 'use:' .. tenant, 'vt:' .. priority, string.format('%.17g', vt))
      call('ZADD', ring, vt, tenant)
      return name, f
    end
    place(tenant)
  end
  return nil
end

-- Leases the next ready job to `worker` under `token`, or returns false. A
-- token that holds a lease already gets the same answer again: the first
-- reply was lost. While both priorities wait, every ninth turn is bulk's.
-- With `bulk` '0' only interactive jobs are taken: a slot kept from bulk.
local function claim(worker, token, lease_ms, bulk)
  local at = now()
  local name = call('HGET', P .. 'claims:' .. worker, token)
  local f, due
  if not name then
    if paused() then
      return false
    end
    local first = has_tenants('interactive') and 'interactive'
    local second = bulk == '1' and has_tenants('bulk') and 'bulk'
    if first and second and call('HINCRBY', STATE, 'turn', 1) % 9 == 0 then
      first, second = second, first
    end
    local priority = first or second
    while priority and not name do
      name, f = take(priority)
      if name == nil then
        ring_bell(priority)
      end
      if not name then
        priority = priority == first and second
      end
    end
    if not name then
      -- What this slot may not take is somebody else's.
      ring_bells()
      return false
    end
    take_lease(name, f, worker, token, lease_ms, at)
    local deadline = number(f[6])
    if f[11] then
      -- Of an attempt before, which began.
      call('HDEL', P .. 'job:' .. name, 'due')
    end
    if deadline > 0 then
      call('ZREM', P .. 'deadlines', name)
      if at < deadline then
        -- It starts in time: that it is tried again later does not make it late. But its
        -- worker may have it wait for memory, and give it back before it began.
        due = string.format('%d', deadline)
        call('HSET', P .. 'job:' .. name, 'deadline', '0', 'due', due)
      end
    end
    place(tenant_of(name), priority)
  else
    f = described(name)
    due = f[11]
  end
  ring_bells()
  return claimed(name, f, at, due)
end
