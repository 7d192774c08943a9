-- The calls of the breakers that the JSON text ARGV[2] names, or of all if it is false: of the last
-- ARGV[3] minutes and ARGV[4] quarters of an hour.

local numbers = { tonumber(ARGV[3]), tonumber(ARGV[4]) }
return { record.number(now), traffic.read(cjson.decode(ARGV[2])[1], numbers) }
