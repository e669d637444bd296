-- fsck/names: whether what Redis has of some jobs fits together; with `repair`
-- it does afterwards. The record says what is true; sets, times to live and
-- claims follow it.
--
-- KEYS  –
-- ARGV  prefix, repair (1|0), lease ms, then names, at most 100
-- Returns {findings, waiting, orphans, lost}:
--   findings  code, name, 1 where it was mended else 0; and so on
--   waiting   name, state, admitted, claimed, priority of each ready job, and of each delayed
--             one that has no time: whether a list has it, and which time, the caller finds out
--   orphans   names whose document has no record (any more)
--   lost      with `repair`: name, admitted, attempts of each waiting job whose document is
--             gone; the caller ends it. Without, it is among the findings
-- Never ends a job, never touches a document of a living or dead one.

local repair, lease_ms, at = ARGV[2] == '1', tonumber(ARGV[3]), now()
local found, waiting, orphans, lost = {}, {}, {}, {}
local DAY = 86400000

local function say(code, name, mended)
  found[#found + 1] = code
  found[#found + 1] = name
  found[#found + 1] = mended and '1' or '0'
end

-- Says what is wrong; whether it is to be mended.
local function mend(code, name)
  say(code, name, repair)
  return repair
end

local function stays(name, key)
  if call('PTTL', key) >= 0 then
    if mend('ttl', name) then
      call('PERSIST', key)
    end
  end
end

local function runs_out(code, name, key)
  if call('PTTL', key) == -1 then
    if mend(code, name) then
      call('PEXPIRE', key, DAY)
    end
  end
end

-- Of the sets, only those in `may` may have the name.
local function nowhere_else(name, may)
  for _, set in ipairs({ 'leased', 'delayed', 'dead', 'deadlines' }) do
    if not may[set] and call('ZSCORE', P .. set, name) then
      if mend('misplaced', name) then
        call('ZREM', P .. set, name)
      end
    end
  end
end

-- A record that no claim could read (now, or when its dead letter is revived), or
-- that says nothing of its job.
local function broken(f)
  if not living(f[1]) and f[1] ~= 'dead' then
    return not (f[1] == 'done' or f[1] == 'cancelled' or f[1] == 'expired')
  end
  for _, i in ipairs({ 3, 7, 8, 9 }) do
    if not tonumber(f[i] or '') then
      return true
    end
  end
  return not f[10] or not (f[2] == 'interactive' or f[2] == 'bulk')
end

local function check_lease(name, job, token, worker)
  nowhere_else(name, { leased = true })
  if not token or not worker then
    -- Nobody can settle it: it is ready again, and the attempt does not count.
    if repair then
      call('ZREM', P .. 'leased', name)
      call('HDEL', job, 'token', 'worker')
      call('HINCRBY', P .. 'use:' .. tenant_of(name), 'running', -1)
      if number(call('HGET', job, 'attempts')) > 0 then
        call('HINCRBY', job, 'attempts', -1)
      end
      make_ready(name, call('HGET', job, 'priority'), true)
    end
    say('no_token', name, repair)
    return
  end
  if not call('ZSCORE', P .. 'leased', name) then
    if mend('unlisted', name) then
      call('ZADD', P .. 'leased', at + lease_ms, name)
    end
  end
  if call('HGET', P .. 'claims:' .. worker, token) ~= name then
    if mend('claim', name) then
      call('HSET', P .. 'claims:' .. worker, token, name)
    end
  end
end

local function check_living(name, job, f)
  local doc = P .. 'doc:' .. name
  stays(name, job)
  stays(name, doc)
  stays(name, P .. 'history:' .. name)
  if call('EXISTS', doc) == 0 then
    if repair and f[1] ~= 'leased' then
      for _, field in ipairs({ name, f[9], f[7] }) do
        lost[#lost + 1] = field
      end
    else
      -- Who runs it may have read it before.
      say('body_missing', name, false)
    end
  end
  if f[1] == 'leased' then
    return check_lease(name, job, f[4], f[5])
  end
  local deadline = number(f[6])
  nowhere_else(name, { delayed = f[1] == 'delayed', deadlines = deadline > 0 })
  local due = call('ZSCORE', P .. 'deadlines', name)
  -- One that has started before (`claimed`) need not be there.
  if deadline > 0 and (due and tonumber(due) ~= deadline or not due and not f[11]) then
    if mend('unlisted', name) then
      call('ZADD', P .. 'deadlines', deadline, name)
    end
  end
  if f[1] == 'ready' or not call('ZSCORE', P .. 'delayed', name) then
    for _, field in ipairs({ name, f[1], f[9], f[11] or '', f[2] }) do
      waiting[#waiting + 1] = field
    end
  end
end

local function check_ended(name, job, f)
  local doc, history = P .. 'doc:' .. name, P .. 'history:' .. name
  if f[1] == 'dead' then
    nowhere_else(name, { dead = true })
    stays(name, job)
    stays(name, doc)
    stays(name, history)
    if not call('ZSCORE', P .. 'dead', name) then
      if mend('unlisted', name) then
        call('ZADD', P .. 'dead', at + DAY, name)
      end
    end
    if f[12] ~= 'body_lost' and call('EXISTS', doc) == 0 then
      say('body_missing', name, false)
    end
    return
  end
  nowhere_else(name, {})
  runs_out('ttl', name, job)
  runs_out('ttl', name, history)
  if call('EXISTS', doc) == 1 then
    if mend('stray_document', name) then
      call('UNLINK', doc)
    end
  end
end

local function check_nothing(name)
  nowhere_else(name, {})
  if call('PTTL', P .. 'history:' .. name) == -1 then
    if mend('orphan_history', name) then
      call('UNLINK', P .. 'history:' .. name)
    end
  end
  if call('EXISTS', P .. 'doc:' .. name) == 1 then
    orphans[#orphans + 1] = name
  end
end

-- Results run out, and are counted while they wait.
local function check_results(name)
  runs_out('result_ttl', name, P .. 'result:' .. name)
  for _, kind in ipairs({ 'reply:', 'pdf:' }) do
    local key = P .. kind .. name
    if call('EXISTS', key) == 1 then
      runs_out('result_ttl', name, key)
      if call('HEXISTS', P .. 'held', kind .. name) == 0 then
        if repair then
          -- About: the length of a list's element cannot be asked for without reading it.
          hold(kind .. name, call('MEMORY', 'USAGE', key))
        end
        say('result_uncounted', name, repair)
      end
    end
  end
end

local function check(name)
  local job = P .. 'job:' .. name
  local kind = call('TYPE', job).ok
  local doc = call('TYPE', P .. 'doc:' .. name).ok
  if doc ~= 'list' and doc ~= 'none' then
    return say('wrong_type', name, false)
  end
  local f = {}
  if kind == 'hash' then
    f = call('HMGET', job, 'state', 'priority', 'bytes', 'token', 'worker', 'deadline', 'attempts',
      'max', 'admitted', 'digest', 'claimed', 'code')
  end
  check_results(name)
  if kind == 'none' then
    return check_nothing(name)
  end
  if kind ~= 'hash' or broken(f) then
    if mend('record_broken', name) then
      call('UNLINK', job)
    end
    if doc == 'none' then
      say('body_missing', name, false)
    end
    return check_nothing(name)
  end
  if f[1] ~= 'leased' and (f[4] or f[5]) then
    if mend('stray_token', name) then
      call('HDEL', job, 'token', 'worker')
    end
  end
  if living(f[1]) then
    check_living(name, job, f)
  else
    check_ended(name, job, f)
  end
end

if repair then
  begin()
end
for i = 4, math.min(#ARGV, 103) do
  check(ARGV[i])
end
if repair then
  ring_bells()
end
return { found, waiting, orphans, lost }
