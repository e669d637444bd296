-- Of the parts of lib/, a script has those functions that it uses, before its own body.
-- What is defined here is made anew by every call, so that an unused function would cost, too.
-- ARGV[1] is the key prefix, `tillroll:{<queue>}:`. All keys carry its hash
-- tag, so they live in one cluster slot. Time is Redis' own, in milliseconds.
-- No script ever reads or returns a document: documents are moved by RENAME.
-- `default` and `FENCED` stand before this text: the limits of the worker that
-- loaded the script, for where the queue's own configuration says nothing.

local P = ARGV[1]
local STATE = P .. 'state'
local call = redis.call

-- A full Redis refuses a script whose first write takes memory, and lets the
-- rest through after one that cannot. So every script that drains begins with
-- this one, on all releases, without flags that Redis 6 does not know.
local function begin()
  call('UNLINK', P .. 'nothing')
end

-- One call is one moment.
local read_at
local function now()
  if not read_at then
    local t = call('TIME')
    read_at = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return read_at
end

-- Whether somebody kept house within the grace: else Redis was away between the
-- guard's call and this one, and living workers have not been heard.
local function is_heard(at, grace)
  local seen = tonumber(call('HGET', STATE, 'seen') or at)
  return math.abs(at - seen) <= tonumber(grace)
end

local function number(text)
  return tonumber(text or '') or 0
end

local function tenant_of(name)
  return string.match(name, '^([^/]+)/')
end

local function living(state)
  return state == 'ready' or state == 'leased' or state == 'delayed'
end

local function event(kind, name, code)
  call('XADD', P .. 'events', 'MAXLEN', '~', '10000', '*', 'event', kind, 'job', name, 'code', code)
end

-- What an operator set, for the whole queue (P:config) or for a tenant. Read once by each
-- call: whoever writes it asks only afterwards. Mostly there is nothing, so that reading all
-- of it is the cheapest.
local settings = {}
local function settings_at(key)
  local set = settings[key]
  if not set then
    set = {}
    local all = call('HGETALL', P .. key)
    for i = 1, #all, 2 do
      set[all[i]] = all[i + 1]
    end
    settings[key] = set
  end
  return set
end

-- What was set for the whole queue; false where nothing was.
local function configured(field)
  return settings_at('config')[field] or false
end

-- A limit of the whole queue; 0: none.
local function limit(field)
  return tonumber(configured(field) or default(field))
end

-- Why nothing is claimed now, or false.
local function paused()
  if configured('state') == 'paused' then
    return 'paused'
  end
  local held = limit('held')
  return held > 0 and number(call('HGET', STATE, 'held')) >= held and 'results_held'
end

-- A list that several jobs share lives as long as the longest of them asks for.
local function keep(key, ttl)
  if call('PTTL', key) < tonumber(ttl) then
    call('PEXPIRE', key, ttl)
  end
end

-- Results that wait for their producers are counted: `bytes` under `key`
-- (`reply:<name>` or `pdf:<name>`); 0: no longer.
local function hold(key, bytes)
  local old = number(call('HGET', P .. 'held', key))
  if bytes > 0 then
    call('HSET', P .. 'held', key, bytes)
  elseif old > 0 then
    call('HDEL', P .. 'held', key)
  end
  if bytes ~= old then
    call('HINCRBY', STATE, 'held', bytes - old)
  end
end

-- Lines that wait for a consumer are counted too, by their number: one has some
-- 600 bytes.
local function hold_list(key)
  hold(key, 600 * call('LLEN', P .. key))
end
