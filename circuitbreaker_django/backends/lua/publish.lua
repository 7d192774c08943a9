-- Who is there, and what his code declares: for operators (rule 23). It also shows that the store
-- takes what it is given. ARGV[2] is JSON.

local told = cjson.decode(ARGV[2])
if not store.look() then
  store.make(told.seed)
end
redis.call('HSET', META, 'written_at', record.number(now))

-- With what is no stream nobody could wait for news, with one that is ahead nobody would have to.
local ahead = redis.pcall('XREAD', 'COUNT', 1, 'STREAMS', FEED, record.number(store.revision) .. '-0')
if type(ahead) == 'table' and (not ahead.err or string.find(ahead.err, 'WRONGTYPE', 1, true)) then
  redis.call('DEL', FEED)
end

-- What is kept says when it was told, before a space.
local function sweep(key, keep)
  local all = redis.call('HGETALL', key)
  for position = 1, #all, 2 do
    local told_at = tonumber(string.match(all[position + 1], '^%d+'))
    if not told_at or told_at <= now - keep or told_at > now + keep then
      redis.call('HDEL', key, all[position])
    end
  end
end

local stamp = record.number(now) .. ' '
if told.info then
  redis.call('HSET', PROCESSES, told.process, stamp .. told.info)
  sweep(PROCESSES, told.gone_after)
end
for name, text in pairs(told.declarations) do
  redis.call('HSET', DECLARATIONS, name, stamp .. text)
end
if next(told.declarations) then
  sweep(DECLARATIONS, told.keep_declared)
end
if next(told.traffic) then
  traffic.add(told.traffic, told.age)
end
return { store.head() }
