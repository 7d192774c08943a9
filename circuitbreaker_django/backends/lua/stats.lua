-- The calls of the breakers that the JSON text ARGV[2] names, or of all if it is false; of the last
-- day too, if ARGV[3] is 1.

return { record.number(now), traffic.read(cjson.decode(ARGV[2])[1], ARGV[3] == '1') }
