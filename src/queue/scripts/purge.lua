-- purge: dead letters are forgotten, with their documents and histories.
--
-- KEYS  dead
-- ARGV  prefix, then names, at most 100
-- Returns how many. Never touches a job that is no dead letter.

begin()
local purged = 0
for i = 2, math.min(#ARGV, 101) do
  if forget_dead(ARGV[i]) then
    purged = purged + 1
    event('purged', ARGV[i], 'asked')
  end
end
return purged
