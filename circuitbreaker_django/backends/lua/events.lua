-- The time, and the newest ARGV[3] events, newest first: names and texts by turns. They are of the
-- breakers that are keys in the JSON text ARGV[2], or of all if it is false.

local names, limit = cjson.decode(ARGV[2])[1], tonumber(ARGV[3])
local found = {}
local function add(entry)
  local fields = {}
  for position = 1, #entry[2], 2 do
    fields[entry[2][position]] = entry[2][position + 1]
  end
  if fields.name and fields.event and (not names or names[fields.name]) then
    found[#found + 1] = fields.name
    found[#found + 1] = fields.event
  end
end

local entries = {}
if limit > 0 then
  entries = redis.call('XREVRANGE', EVENTS, '+', '-', 'COUNT', names and HISTORY or limit)
end
for _, entry in ipairs(entries) do
  if #found < 2 * limit then
    add(entry)
  end
end
return { record.number(now), found }
