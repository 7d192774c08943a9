-- Drop rows on which nothing counts, and declarations, as the JSON text ARGV[2] names them.

local told = cjson.decode(ARGV[2])
if not store.look() then
  return 0
end
local dropped = {}
for _, name in ipairs(told.names) do
  if store.find(name) then
    local row = store.read(name)
    if circuit.is_blank(row, told.policy, now) then
      dropped[#dropped + 1] = name
      store.floor = math.max(store.floor, row.epoch)
    end
  end
end
store.drop(dropped, store.floor + 1)
for _, name in ipairs(told.declarations) do
  redis.call('HDEL', DECLARATIONS, name)
end
return #dropped
