-- overdue: leases jobs whose deadline passed before they started, so that they
-- are ended now and not when their turn would have come.
--
-- KEYS  deadlines
-- ARGV  prefix, worker, token (a number is appended for each job), lease ms, at most so many, grace ms
-- Returns a list of claims, as `claim` returns one.

local at, worker, token = now(), ARGV[2], ARGV[3]
local claims = {}
if not is_heard(at, ARGV[6]) then
  return claims
end
for i, name in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, ARGV[5])) do
  begin()
  call('ZREM', KEYS[1], name)
  local f = described(name)
  if f[1] == 'ready' or f[1] == 'delayed' then
    -- In a ready list its name stays behind: whoever takes it skips it.
    call('ZREM', P .. 'delayed', name)
    take_lease(name, f, worker, token .. i, tonumber(ARGV[4]), at)
    place(tenant_of(name))
    local answer = claimed(name, f, at)
    answer[#answer + 1] = token .. i
    claims[#claims + 1] = answer
  end
end
return claims
