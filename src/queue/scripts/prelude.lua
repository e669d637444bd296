-- Shared by every script; the body of one script follows it.
-- ARGV[1] is the key prefix, `tillroll:{<queue>}:`. All keys carry its hash
-- tag, so they live in one cluster slot. Time is Redis' own, in milliseconds.
-- No script ever reads or returns a document: documents are moved by RENAME.

local P = ARGV[1]
local call = redis.call

local function now()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function tenant_of(name)
  return string.match(name, '^([^/]+)/')
end

local function living(state)
  return state == 'ready' or state == 'leased' or state == 'delayed'
end

-- One token at the most: a bell that has not been heard need not ring again.
local function ring_bell()
  if call('EXISTS', P .. 'bell') == 0 then
    call('RPUSH', P .. 'bell', '1')
  end
end

-- A list that several jobs share lives as long as the longest of them asks for.
local function keep(key, ttl)
  if call('PTTL', key) < tonumber(ttl) then
    call('PEXPIRE', key, ttl)
  end
end

-- A connection that died unnoticed may have been handed one element more: what
-- lies below the one in hand goes back to its inbox.
local function only_the_latest(stage, inbox)
  for _ = 1, 10 do
    if call('LLEN', stage) < 2 then
      return
    end
    call('RPOPLPUSH', stage, inbox)
  end
end

local function event(kind, name, code)
  call('XADD', P .. 'events', 'MAXLEN', '~', '10000', '*', 'event', kind, 'job', name, 'code', code)
end

-- Puts a job into its tenant's list, and its tenant into the ring of its
-- priority: at the present virtual time, so that idleness banks no credit.
local function make_ready(name, priority, front)
  local tenant = tenant_of(name)
  local list = P .. 'ready:' .. priority .. ':' .. tenant
  call('HSET', P .. 'job:' .. name, 'state', 'ready')
  call(front and 'LPUSH' or 'RPUSH', list, name)
  local ring = P .. 'ring:' .. priority
  if not call('ZSCORE', ring, tenant) then
    call('ZADD', ring, call('HGET', P .. 'state', 'vt:' .. priority) or '0', tenant)
  end
end

-- Takes the next ready name of one priority, or false.
local function take(priority)
  local ring = P .. 'ring:' .. priority
  local first = call('ZRANGE', ring, 0, 0, 'WITHSCORES')
  if not first[1] then
    return false
  end
  local tenant = first[1]
  local list = P .. 'ready:' .. priority .. ':' .. tenant
  local name = call('LPOP', list)
  call('HSET', P .. 'state', 'vt:' .. priority, first[2])
  if call('EXISTS', list) == 1 then
    call('ZADD', ring, first[2] + 1, tenant)
  else
    call('ZREM', ring, tenant)
  end
  return name or nil
end

-- Leases the next ready job to `worker` under `token`, or returns false.
-- A token that holds a lease already gets the same answer again: the first
-- reply was lost. Interactive jobs go first, but every ninth turn is bulk's.
local function claim(worker, token, lease_ms)
  local at = now()
  local claims = P .. 'claims:' .. worker
  local name = call('HGET', claims, token)
  if not name then
    for _ = 1, 100 do
      local turn = call('HINCRBY', P .. 'state', 'turn', 1)
      local order = turn % 9 == 0 and { 'bulk', 'interactive' } or { 'interactive', 'bulk' }
      local found = take(order[1])
      if found == false then
        found = take(order[2])
      end
      if found == false then
        return false
      end
      -- A name whose record is gone or not ready is a leftover: skip it.
      if found and call('HGET', P .. 'job:' .. found, 'state') == 'ready' then
        name = found
        break
      end
    end
    if not name then
      ring_bell()
      return false
    end
    local job = P .. 'job:' .. name
    call('HSET', job, 'state', 'leased', 'token', token, 'worker', worker, 'claimed', at)
    call('HINCRBY', job, 'attempts', 1)
    call('ZADD', P .. 'leased', at + lease_ms, name)
    call('HSET', claims, token, name)
  end
  if call('EXISTS', P .. 'ring:interactive', P .. 'ring:bulk') > 0 then
    ring_bell()
  end
  local f = call('HMGET', P .. 'job:' .. name, 'attempts', 'max', 'admitted', 'deadline', 'crashes', 'priority')
  return { name, f[1], f[2], f[3], f[4] or '0', f[5] or '0', f[6], tostring(at) }
end

-- Whether `token` still holds the lease on `name`.
local function holds(name, token)
  local f = call('HMGET', P .. 'job:' .. name, 'state', 'token')
  return f[1] == 'leased' and f[2] == token
end

local function drop_lease(name, token, worker)
  call('ZREM', P .. 'leased', name)
  call('HDEL', P .. 'claims:' .. worker, token)
  call('HDEL', P .. 'job:' .. name, 'token', 'worker')
end
