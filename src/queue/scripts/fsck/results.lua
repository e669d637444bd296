-- fsck/results: results that are counted as held and gone; keys that should run
-- out and do not.
--
-- KEYS  –
-- ARGV  prefix, repair (1|0), held | ttl, time to live in ms, then fields of `held` or keys
--       without their prefix, at most 100
-- Returns those that were found so; with `repair` they are no longer.

local repair, found = ARGV[2] == '1', {}
if repair then
  begin()
end
for i = 5, math.min(#ARGV, 104) do
  local what = ARGV[i]
  if ARGV[3] == 'held' then
    if call('HEXISTS', P .. 'held', what) == 1 and call('EXISTS', P .. what) == 0 then
      found[#found + 1] = what
      if repair then
        hold(what, 0)
      end
    end
  elseif call('PTTL', P .. what) == -1 then
    found[#found + 1] = what
    if repair then
      call('PEXPIRE', P .. what, ARGV[4])
    end
  end
end
return found
