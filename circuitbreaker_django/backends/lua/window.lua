-- What is counted, and for how long: core/window.py.

local window = {}
local MAX_SLICES = 64

-- The last of a sorted list, at most so many.
function window.newest(items, most)
  local first = #items - most
  if first <= 0 then
    return items
  end
  local kept = {}
  for position = first + 1, #items do
    kept[#kept + 1] = items[position]
  end
  return kept
end

function window.add(times, more, policy)
  if not policy.failure_threshold then
    return {}
  end
  local all = {}
  for _, time in ipairs(times) do
    all[#all + 1] = time
  end
  for _, time in ipairs(more) do
    all[#all + 1] = time
  end
  table.sort(all)
  return window.newest(all, policy.failure_threshold)
end

function window.live(times, policy, now)
  local limit, kept = now - policy.failure_window, {}
  for _, time in ipairs(times) do
    if time > limit then
      kept[#kept + 1] = time
    end
  end
  return kept
end

function window.slice_start(policy, time)
  local width = math.max(1, math.floor(policy.failure_window / 10))
  return time - time % width
end

function window.merge(slices, more, policy, now)
  local merged, starts = {}, {}
  for _, part in ipairs({ slices, more }) do
    for _, one in ipairs(part) do
      local there = merged[one.start]
      if there then
        merged[one.start] = {
          start = one.start,
          calls = there.calls + one.calls,
          failures = there.failures + one.failures,
          slow = there.slow + one.slow,
        }
      else
        merged[one.start] = one
        starts[#starts + 1] = one.start
      end
    end
  end
  starts = window.live(starts, policy, now)
  table.sort(starts)
  local kept = {}
  for position, start in ipairs(window.newest(starts, MAX_SLICES)) do
    kept[position] = merged[start]
  end
  return kept
end

function window.total(slices, policy, now)
  local limit = now - policy.failure_window
  local sum = { calls = 0, failures = 0, slow = 0 }
  for _, one in ipairs(slices) do
    if one.start > limit then
      sum.calls = sum.calls + one.calls
      sum.failures = sum.failures + one.failures
      sum.slow = sum.slow + one.slow
    end
  end
  return sum
end

local function failures_in_words(count)
  return record.number(count) .. (count > 1 and ' failures' or ' failure')
end

function window.why_tripped(failures, slices, streak, policy, now)
  local span = string.format('within %g s', policy.failure_window_seconds)
  local count = #window.live(failures, policy, now)
  if policy.failure_threshold and count >= policy.failure_threshold then
    return failures_in_words(count) .. ' ' .. span
  end
  if policy.consecutive_failures and streak >= policy.consecutive_failures then
    return failures_in_words(streak) .. ' in a row'
  end
  local seen = window.total(slices, policy, now)
  if not policy.has_rates or seen.calls < policy.minimum_calls then
    return false
  end
  local calls = ' of ' .. record.number(seen.calls) .. ' calls '
  local rate = policy.failure_rate_threshold
  if rate and seen.failures / seen.calls >= rate then
    return record.number(seen.failures) .. calls .. 'failed ' .. span
  end
  local slow = policy.slow_call_duration
  if slow and seen.slow / seen.calls >= policy.slow_call_rate_threshold then
    return record.number(seen.slow) .. calls .. string.format('took %g s or longer ', slow) .. span
  end
  return false
end
