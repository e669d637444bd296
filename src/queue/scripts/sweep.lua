-- sweep: results that were taken, or whose time is over, no longer count as
-- held; dead letters whose time is over, or of which there are too many, are
-- forgotten, oldest first; so are tenants
-- that are gone, and breakers of tenants that were idle for a day.
--
-- KEYS  held, dead
-- ARGV  prefix, cursor of the last call (0: from the start), worker
-- Returns the cursor of the next call (0: all was seen). About 500 results a call, 100 dead letters.

local at = now()
begin()
if ARGV[2] == '0' then
  -- One worker in a second is enough.
  local swept = call('HMGET', STATE, 'swept', 'swept_by')
  local ago = at - number(swept[1])
  if swept[2] and swept[2] ~= ARGV[3] and ago >= 0 and ago < 1500 then
    return '0'
  end
  call('HSET', STATE, 'swept', at, 'swept_by', ARGV[3])
end
local page = call('HSCAN', KEYS[1], ARGV[2], 'COUNT', 500)
for i = 1, #page[2], 2 do
  local key = page[2][i]
  if string.sub(key, 1, 8) == 'replies:' then
    hold_list(key)
  elseif call('EXISTS', P .. key) == 0 then
    hold(key, 0)
  end
end

local function forget(names, why)
  for _, name in ipairs(names) do
    if forget_dead(name) then
      event('purged', name, why)
    end
  end
end
forget(call('ZRANGEBYSCORE', KEYS[2], '-inf', at, 'LIMIT', 0, 50), 'expired')
local most, most_bytes = limit('dead'), limit('dead_bytes')
local too_many = most > 0 and call('ZCARD', KEYS[2]) - most or 0
if too_many > 0 then
  forget(call('ZRANGE', KEYS[2], 0, math.min(too_many, 50) - 1), 'too_many')
elseif most_bytes > 0 and number(call('HGET', STATE, 'dead_bytes')) > most_bytes then
  forget(call('ZRANGE', KEYS[2], 0, 9), 'too_many_bytes')
end
-- A broken template is known for a day after the tenant's last job.
for _, tenant in ipairs(call('SRANDMEMBER', P .. 'broken', 20)) do
  if number(call('HGET', P .. 'use:' .. tenant, 'fails')) < BROKEN_AFTER then
    call('SREM', P .. 'broken', tenant)
    event('breaker_closed', '', tenant)
  end
end
-- Tenants that nobody heard of for a month and nobody configured.
for _, tenant in ipairs(call('ZRANGEBYSCORE', P .. 'tenants', '-inf', at - 30 * DAY_MS, 'LIMIT', 0, 20)) do
  if call('EXISTS', P .. 'tenant:' .. tenant, P .. 'use:' .. tenant) == 0 then
    call('ZREM', P .. 'tenants', tenant)
  else
    -- Looked at again tomorrow, so that it does not stand before the others.
    call('ZADD', P .. 'tenants', at - 29 * DAY_MS, tenant)
  end
end
return page[1]
