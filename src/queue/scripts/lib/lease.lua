-- Leases: the right to run one attempt, fenced by its token.

-- Whether `token` still holds the lease on `name`.
local function holds(name, token)
  local f = call('HMGET', P .. 'job:' .. name, 'state', 'token')
  -- Without fencing whoever comes is believed.
  return (not FENCED and f[1]) or (f[1] == 'leased' and f[2] == token)
end

-- What is said of a write by somebody who holds no lease (any more).
local function refusal(name, token, worker)
  if call('HGET', P .. 'job:' .. name, 'settled') == token then
    return 'repeated'
  end
  call('HDEL', P .. 'claims:' .. worker, token)
  event('stale', name, worker)
  return 'stale'
end

local function drop_lease(name, token, worker)
  call('ZREM', P .. 'leased', name)
  call('HDEL', P .. 'claims:' .. worker, token)
  call('HDEL', P .. 'job:' .. name, 'token', 'worker', 'waits')
  call('HINCRBY', P .. 'use:' .. tenant_of(name), 'running', -1)
end

-- Of an attempt that did not begin: whoever has the job next is to begin in time.
local function not_begun(name)
  local due = number(call('HGET', P .. 'job:' .. name, 'due'))
  if due > 0 then
    call('HSET', P .. 'job:' .. name, 'deadline', string.format('%d', due))
    call('ZADD', P .. 'deadlines', due, name)
  end
end

-- What a claim reads of a job's record.
local function described(name)
  return call('HMGET', P .. 'job:' .. name, 'state', 'priority', 'attempts', 'max', 'admitted', 'deadline', 'crashes',
    'cancel', 'tries', 'needs', 'due')
end

-- `f`: the job as it was described.
local function take_lease(name, f, worker, token, lease_ms, at)
  f[3] = string.format('%d', number(f[3]) + 1)
  call('HSET', P .. 'job:' .. name, 'state', 'leased', 'token', token, 'worker', worker, 'claimed', at,
    'attempts', f[3])
  call('ZADD', P .. 'leased', at + lease_ms, name)
  call('HSET', P .. 'claims:' .. worker, token, name)
  call('HINCRBY', P .. 'use:' .. tenant_of(name), 'running', 1)
end

-- What a claim says of a job; the last fields are whether somebody cancelled it, how
-- many of its attempts failed without being counted, what memory it was seen to need,
-- what an operator decided for its tenant, and the version of that tenant's assets ('': none).
-- `deadline`: by when it has to begin, where its record does not say that any more.
local function claimed(name, f, at, deadline)
  local set = settings_at('tenant:' .. tenant_of(name))
  return {
    name, f[3], f[4], f[5], deadline or f[6] or '0', f[7] or '0', f[2], tostring(at), f[8] or '0', f[9] or '0',
    f[10] or '0', set.isolation or '', set.scripts or '', set.assets or '',
  }
end

-- One line of a job's history: at most 20 are kept, the newest.
local function remember(name, line)
  if line ~= '' then
    call('RPUSH', P .. 'history:' .. name, line)
    call('LTRIM', P .. 'history:' .. name, -20, -1)
  end
end
