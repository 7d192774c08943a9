-- Drop rows that are no circuits: ARGV[2] is the name of one and ARGV[3] what was found there, and so
-- on. Nobody knows what epochs they had, so the floor is raised to the time, and above the last
-- revision, for the clock may have been set back.

if not store.look() then
  return 0
end
local dropped = {}
for position = 2, #ARGV, 2 do
  if redis.call('HGET', CIRCUITS, ARGV[position]) == ARGV[position + 1] then
    dropped[#dropped + 1] = ARGV[position]
  end
end
store.drop(dropped, math.max(now, store.floor + 1, store.revision + 1))
return #dropped
