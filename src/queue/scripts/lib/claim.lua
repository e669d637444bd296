-- Claiming: which job is next.

-- Takes the next ready name of one priority; false where there is none, nil
-- where so many leftovers came first that somebody should ask again.
local function take(priority)
  local ring = P .. 'ring:' .. priority
  for _ = 1, 100 do
    local first = call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local tenant = first[1]
    if not tenant then
      return false
    end
    local name = call('LPOP', P .. 'ready:' .. priority .. ':' .. tenant)
    local f = name and call('HMGET', P .. 'job:' .. name, 'state', 'priority') or {}
    -- A name whose record is gone or not ready is a leftover: skip it. So is one
    -- that was pushed again with the other priority: it stands in that list too.
    if f[1] == 'ready' and f[2] == priority then
      local weight = number(call('HGET', P .. 'tenant:' .. tenant, 'weight'))
      local vt = first[2] + 1 / (weight > 0 and weight or 1)
      call('HSET', STATE, 'vt:' .. priority, first[2])
      call('HSET', P .. 'use:' .. tenant, 'vt:' .. priority, string.format('%.17g', vt))
      call('ZADD', ring, vt, tenant)
      return name
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
  local due
  if not name then
    if paused() then
      return false
    end
    local order = {}
    if call('EXISTS', P .. 'ring:interactive') == 1 then
      order[1] = 'interactive'
    end
    if bulk == '1' and call('EXISTS', P .. 'ring:bulk') == 1 then
      order[#order + 1] = 'bulk'
    end
    if #order == 2 and call('HINCRBY', STATE, 'turn', 1) % 9 == 0 then
      order = { 'bulk', 'interactive' }
    end
    for _, priority in ipairs(order) do
      local found = take(priority)
      if found == nil then
        ring_bell(priority)
      end
      if found then
        name = found
        break
      end
    end
    if not name then
      -- What this slot may not take is somebody else's.
      ring_bells()
      return false
    end
    take_lease(name, worker, token, lease_ms, at)
    local f = call('HMGET', P .. 'job:' .. name, 'deadline', 'due')
    local deadline = number(f[1])
    if f[2] then
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
    place(tenant_of(name))
  else
    due = call('HGET', P .. 'job:' .. name, 'due') or nil
  end
  ring_bells()
  return claimed(name, at, due)
end
