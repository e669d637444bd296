-- The end of a job: exactly one is accepted.

-- The record of a job that was alive until now. `settled` is what a repeated
-- call is known by. The caller says where the result is.
local function end_job(name, status, code, settled, retain)
  local job = P .. 'job:' .. name
  local tenant = tenant_of(name)
  local f = call('HMGET', job, 'bytes', 'deadline', 'accepted', 'cancel')
  local bytes = number(f[1])
  local at = now()
  -- Room first: what is freed here pays for what is written below.
  if status == 'dead' then
    call('ZADD', P .. 'dead', at + retain, name)
    call('HINCRBY', STATE, 'dead_bytes', bytes)
  else
    call('UNLINK', P .. 'doc:' .. name)
  end
  if number(f[2]) > 0 then
    call('ZREM', P .. 'deadlines', name)
  end
  call('HSET', job, 'state', status, 'settled', settled, 'code', code, 'ended', at, 'accepted', number(f[3]) + 1)
  if f[4] then
    call('HDEL', job, 'cancel')
  end
  if status == 'dead' then
    tenant_failed(tenant)
  else
    -- A dead letter stays until housekeeping takes it, which knows what it weighs.
    call('PEXPIRE', job, retain)
    call('PEXPIRE', P .. 'history:' .. name, retain)
  end
  if status == 'done' then
    tenant_succeeded(tenant)
  end
  count_job(tenant, bytes, -1)
  call('HINCRBY', STATE, 'ended:' .. status, 1)
  event(status, name, code)
  place(tenant)
end

-- Forgets a dead letter with its document and history.
local function forget_dead(name)
  local job = P .. 'job:' .. name
  call('ZREM', P .. 'dead', name)
  local f = call('HMGET', job, 'state', 'bytes')
  if f[1] == 'dead' then
    call('HINCRBY', STATE, 'dead_bytes', 0 - number(f[2]))
    call('UNLINK', job, P .. 'doc:' .. name, P .. 'history:' .. name)
    return true
  end
  return false
end
