-- The store: what it is, what time it is there, and its rows.
--
-- KEYS: meta (hash), circuits (hash), changes (sorted set), feed and events (streams), processes
-- and declarations (hashes), and what the hashes of traffic begin with. ARGV[1] is the time if tests say it, else empty.
--
-- The rows and their order of change carry the incarnation, so that the loss of a single key is
-- seen: then everything begins anew, as after the loss of all.

local META, CIRCUITS, CHANGES, FEED, EVENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local PROCESSES, DECLARATIONS = KEYS[6], KEYS[7]
local MARK = ''  -- no breaker has this name
local HISTORY, RINGS = 5000, 100

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local store = {}

function store.look()
  local found = redis.call('HMGET', META, 'incarnation', 'floor', 'revision')
  local incarnation = found[1]
  local whole = incarnation
    and redis.call('HGET', CIRCUITS, MARK) == incarnation
    and redis.call('ZSCORE', CHANGES, MARK)
  store.incarnation = whole and incarnation or ''
  store.floor = record.count(found[2])
  store.revision = record.count(found[3])
  return whole
end

-- Times that were there before stay below those that come (rules 1 and 2).
function store.make(incarnation)
  redis.call('DEL', CIRCUITS, CHANGES, FEED)
  store.incarnation = incarnation
  store.floor = math.max(now, store.floor + 1, store.revision + 1)
  store.revision = store.floor
  redis.call('HSET', META, 'incarnation', incarnation)
  redis.call('HSET', META, 'floor', record.number(store.floor))
  redis.call('HSET', META, 'revision', record.number(store.revision))
  redis.call('HSET', CIRCUITS, MARK, incarnation)
  redis.call('ZADD', CHANGES, 0, MARK)
end

-- What every answer begins with.
function store.head()
  return {
    record.number(now),
    store.incarnation,
    record.number(store.floor),
    record.number(store.revision),
  }
end

-- -- one step: all is read and decided before anything is written -------------------------------

local stored, known, events, silent = {}, {}, {}, true
-- Names and texts of rows that are no circuits, one after the other.
local unreadable = {}

-- The row's text, if there is one.
function store.find(name)
  if stored[name] == nil then
    stored[name] = redis.call('HGET', CIRCUITS, name)
  end
  return stored[name]
end

-- A circuit that has no row is closed, at the floor of all dropped rows (rule 2).
function store.read(name)
  if not known[name] then
    local text = store.find(name)
    local row = text and record.load(text)
    if text and not row then
      unreadable[#unreadable + 1] = name
      unreadable[#unreadable + 1] = text
    end
    known[name] = row or circuit.new(store.floor)
  end
  return known[name]
end

function store.write(name, after, event)
  known[name] = after
  if event then
    events[#events + 1] = name
    events[#events + 1] = record.dump_event(event)
    silent = false
  end
end

-- Have the others hear of it, though it is worth no event.
function store.ring()
  silent = false
end

-- Adds to a stream; what is no stream, or one that is ahead, begins anew.
local function push(key, most, ...)
  local failed = redis.pcall('XADD', key, 'MAXLEN', '~', most, ...)
  if type(failed) == 'table' and failed.err then
    local why = failed.err
    if string.find(why, 'WRONGTYPE', 1, true) or string.find(why, 'smaller', 1, true) then
      redis.call('DEL', key)
    end
    redis.call('XADD', key, 'MAXLEN', '~', most, ...)  -- or fail as it has
  end
end

function store.ring_now()
  store.revision = math.max(now, store.revision + 1)
  local revision = record.number(store.revision)
  push(FEED, RINGS, revision .. '-0', 'ring', '')
  redis.call('HSET', META, 'revision', revision)
end

-- Drops rows. The floor is raised first, and in any case: by that the others hear that they are to
-- forget them (rule 2).
function store.drop(names, floor)
  if #names > 0 then
    redis.call('HSET', META, 'floor', record.number(floor))
    redis.call('HDEL', CIRCUITS, unpack(names))
    redis.call('ZREM', CHANGES, unpack(names))
    store.ring_now()
  end
end

-- Returns all circuits that were looked at, and what has happened to them. Nothing is undone where
-- a command fails: so the streams, which were not read yet, come before the circuits.
function store.save()
  for position = 1, #events, 2 do
    push(EVENTS, HISTORY, '*', 'name', events[position], 'event', events[position + 1])
  end
  if not silent then
    store.ring_now()
  end
  local rows = {}
  for name, after in pairs(known) do
    local row = record.dump(after)
    rows[#rows + 1] = name
    rows[#rows + 1] = row
    if row ~= (store.find(name) or record.dump(circuit.new(store.floor))) then
      redis.call('HSET', CIRCUITS, name, row)
      redis.call('ZADD', CHANGES, record.number(store.revision), name)
    end
  end
  return rows, events
end
