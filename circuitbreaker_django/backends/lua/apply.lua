-- All that changes circuits. ARGV[2] says as JSON what to do: `operations`, all or none, not after
-- the time `before`; and `seed`, the incarnation of a store that is made for this. Nothing is done
-- where a row is no circuit: that is to be dropped first.

local asked = cjson.decode(ARGV[2])
if asked.before and now > asked.before then
  return { 'late', record.number(now) }
end
if not store.look() then
  store.make(asked.seed)
end

local apply = {}
local answer = {}

function apply.record(one)
  if one.incarnation ~= store.incarnation then
    return
  end
  local before, policy = store.read(one.name), one.policy
  local slices = {}
  for position, slice in ipairs(one.slices) do
    slices[position] = {
      start = window.slice_start(policy, now - slice[1]),
      calls = slice[2],
      failures = slice[3],
      slow = slice[4],
    }
  end
  one.slices = slices
  local after, event = circuit.record(before, one, policy, now)
  store.write(one.name, after, event)
  if circuit.is_suspect(after, policy, now) and not circuit.is_suspect(before, policy, now) then
    store.ring()  -- the others have to tell of their calls (rule 7)
  end
end

function apply.report(one)
  if one.incarnation ~= store.incarnation then
    return
  end
  local before = store.read(one.name)
  local after, event = circuit.report(before, one, one.policy, now)
  store.write(one.name, after, event)
  if #after.permits < #before.permits then
    store.ring()  -- a permit has come back: others may ask for it
  end
end

function apply.acquire(one)
  local before = store.read(one.name)
  if one.incarnation ~= store.incarnation then
    answer = { 'denied', '' }
    return
  end
  local after, granted, wait, event = circuit.acquire(before, one.epoch, one.token, one.policy, now)
  store.write(one.name, after, event)
  answer = { granted and 'granted' or 'denied', wait and record.number(wait) or '' }
end

function apply.command(one)
  local before = store.read(one.name)
  if one.if_lost and store.find(one.name) then
    return
  end
  local after, event = circuit.command(before, one, one.policy, now)
  if not after then
    return true
  end
  store.write(one.name, after, event)
end

local conflict
for _, one in ipairs(asked.operations) do
  if apply[one.operation](one) then
    conflict = one.name
    break
  end
end
if #unreadable > 0 then
  return { 'unreadable', unreadable }
end
if conflict then
  return { 'conflict', conflict }
end
local rows, events = store.save()
return { 'done', store.head(), answer, rows, events }
