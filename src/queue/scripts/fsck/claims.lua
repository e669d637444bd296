-- fsck/claims: whether a worker's claims lead to leases, and whether somebody will
-- look after what it has in its stages.
--
-- KEYS  workers, stage:<worker>, stage:bulk:<worker>
-- ARGV  prefix, repair (1|0), worker, lease ms, then tokens, at most 100
-- Returns code, token or worker, 1 where it was mended else 0; and so on.

local repair, worker = ARGV[2] == '1', ARGV[3]
local found = {}

local function say(code, what)
  found[#found + 1] = code
  found[#found + 1] = what
  found[#found + 1] = repair and '1' or '0'
end

if repair then
  begin()
end
if call('EXISTS', KEYS[2], KEYS[3]) > 0 and not call('ZSCORE', KEYS[1], worker) then
  if repair then
    -- Listed as silent: the next housekeeping takes over what it left.
    call('ZADD', KEYS[1], 'NX', now() - tonumber(ARGV[4]), worker)
  end
  say('stage_unlisted', worker)
end
for i = 5, math.min(#ARGV, 104) do
  local token = ARGV[i]
  local name = call('HGET', P .. 'claims:' .. worker, token)
  if name then
    local job = P .. 'job:' .. name
    local f = call('TYPE', job).ok == 'hash' and call('HMGET', job, 'state', 'token', 'worker') or {}
    if f[1] ~= 'leased' or f[2] ~= token or f[3] ~= worker then
      if repair then
        call('HDEL', P .. 'claims:' .. worker, token)
      end
      say('claim', token)
    end
  end
end
return found
