-- What has changed after the revision ARGV[2]; reads only. At most about ARGV[3] rows at once, and
-- then all of the last revision among them, so that the next time goes on after it. If ARGV[4] is 1,
-- it also says who is there and what is declared.

local function answer(rows, more)
  local told = { store.head(), rows, more }
  if ARGV[4] == '1' then
    told[4], told[5] = redis.call('HGETALL', PROCESSES), redis.call('HGETALL', DECLARATIONS)
  end
  return told
end

if not store.look() then
  return answer({}, 0)
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
return answer(rows, more)
