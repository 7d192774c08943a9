-- The calls of breakers over time: what core/traffic.py does, in a hash for each bucket.
--
-- KEYS[8] is what the names of these begin with; they end by themselves. A field is the first letter
-- of a count, and the breaker's name.

local traffic = {}

local MINUTE = 60 * 1000000
local WIDTHS = { { MINUTE, 60 }, { 15 * MINUTE, 96 } }
local COUNTS = { 'c', 'f', 's', 'i', 'r' }
-- The fields of a bucket from which on breakers by key that have none yet are counted for their family:
-- keys may come from outside.
local MANY = 10000

local function bucket(width, start)
  return KEYS[8] .. ':' .. record.number(width) .. ':' .. record.number(start)
end

-- What is no count begins anew, and so does what is no bucket.
local function add(key, field, share)
  local failed = redis.pcall('HINCRBY', key, field, share)
  if type(failed) == 'table' then
    if string.find(failed.err, 'WRONGTYPE', 1, true) then
      redis.call('DEL', key)
    end
    redis.call('HSET', key, field, share)
  end
end

local function is_full(key)
  local fields = redis.pcall('HLEN', key)
  return type(fields) == 'number' and fields >= MANY
end

local function ask(...)
  local found = redis.pcall(...)
  return found.err and {} or found
end

-- Adds what was counted in so many microseconds, evenly where several buckets are due.
function traffic.add(counted, age)
  for _, one in ipairs(WIDTHS) do
    local width, kept = one[1], one[2]
    local last = now - now % width
    local first = now - math.max(0, age)
    local number = (last - (first - first % width)) / width + 1
    for index = math.max(0, number - kept), number - 1 do
      local key = bucket(width, last - (number - 1 - index) * width)
      local full = is_full(key)
      for name, counts in pairs(counted) do
        if full and not redis.call('HGET', key, 'c' .. name) then
          name = string.match(name, '^[^:]+') or name
        end
        for position, letter in ipairs(COUNTS) do
          local value = counts[position]
          local share = math.floor(value * (index + 1) / number)
            - math.floor(value * index / number)
          if share > 0 then
            add(key, letter .. name, record.number(share))
          end
        end
      end
      redis.call('EXPIRE', key, (kept + 1) * width / 1000000)
    end
  end
end

-- Of the last so many buckets of each width: the width, the beginning, and the fields.
function traffic.read(names, numbers)
  local fields = {}
  for _, name in ipairs(names or {}) do
    for _, letter in ipairs(COUNTS) do
      fields[#fields + 1] = letter .. name
    end
  end
  local found = {}
  for position, one in ipairs(WIDTHS) do
    local width = one[1]
    local last = now - now % width
    for index = 1 - numbers[position], 0 do
      local start = last + index * width
      local pairs_found = {}
      if not names then
        pairs_found = ask('HGETALL', bucket(width, start))
      elseif #fields > 0 then
        for place = 1, #fields, 1000 do
          local part = {}
          for each = place, math.min(place + 999, #fields) do
            part[#part + 1] = fields[each]
          end
          for each, value in ipairs(ask('HMGET', bucket(width, start), unpack(part))) do
            if value then
              pairs_found[#pairs_found + 1] = part[each]
              pairs_found[#pairs_found + 1] = value
            end
          end
        end
      end
      if #pairs_found > 0 then
        found[#found + 1] = { record.number(width), record.number(start), pairs_found }
      end
    end
  end
  return found
end
