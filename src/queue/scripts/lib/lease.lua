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

local function take_lease(name, worker, token, lease_ms, at)
  local job = P .. 'job:' .. name
  call('HSET', job, 'state', 'leased', 'token', token, 'worker', worker, 'claimed', at)
  call('HINCRBY', job, 'attempts', 1)
  call('ZADD', P .. 'leased', at + lease_ms, name)
  call('HSET', P .. 'claims:' .. worker, token, name)
  call('HINCRBY', P .. 'use:' .. tenant_of(name), 'running', 1)
end

-- What a claim says of a job; the last fields are whether somebody cancelled it, how
-- many of its attempts failed without being counted, what memory it was seen to need,
-- what an operator decided for its tenant, and the version of that tenant's assets ('': none).
-- `deadline`: by when it has to begin, where its record does not say that any more.
local function claimed(name, at, deadline)
  local f = call('HMGET', P .. 'job:' .. name, 'attempts', 'max', 'admitted', 'deadline', 'crashes', 'priority', 'cancel', 'tries', 'needs')
  local of = call('HMGET', P .. 'tenant:' .. tenant_of(name), 'isolation', 'scripts', 'assets')
  return {
    name, f[1], f[2], f[3], deadline or f[4] or '0', f[5] or '0', f[6], tostring(at), f[7] or '0', f[8] or '0',
    f[9] or '0', of[1] or '', of[2] or '', of[3] or '',
  }
end

-- One line of a job's history: at most 20 are kept, the newest.
local function remember(name, line)
  if line ~= '' then
    call('RPUSH', P .. 'history:' .. name, line)
    call('LTRIM', P .. 'history:' .. name, -20, -1)
  end
end
