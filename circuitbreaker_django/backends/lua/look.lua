-- What has changed after the revision ARGV[2]; reads only. At most about ARGV[3] rows at once, and
-- then all of the last revision among them, so that the next time goes on after it.

if not store.look() then
  return { store.head(), {}, 0 }
end

local since, most = ARGV[2], tonumber(ARGV[3])
local found = redis.call(
  'ZRANGEBYSCORE', CHANGES, '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, most
)
local rows, more = {}, 0
local function add(names, step)
  for position = 1, #names, step do
    local row = redis.call('HGET', CIRCUITS, names[position])
    if row then
      rows[#rows + 1] = names[position]
      rows[#rows + 1] = row
    end
  end
end

if #found == 2 * most then
  local last = found[#found]
  more = 1
  store.revision = tonumber(last)
  while #found > 0 and found[#found] == last do
    found[#found] = nil
    found[#found] = nil
  end
  add(redis.call('ZRANGEBYSCORE', CHANGES, last, last), 1)
end
add(found, 2)
return { store.head(), rows, more }
