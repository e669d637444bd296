-- fsck/held: what is held and what the counter says, both at one time.
--
-- KEYS  held, state
-- ARGV  prefix, how many entries are added up in one call at the most
-- Returns {sum of the entries, counter}, or nothing where there are more. Writes nothing.

if call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  return false
end
local sum = 0
for _, bytes in ipairs(call('HVALS', KEYS[1])) do
  sum = sum + number(bytes)
end
return { sum, number(call('HGET', KEYS[2], 'held')) }
