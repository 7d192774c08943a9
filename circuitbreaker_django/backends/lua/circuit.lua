-- What moves a circuit: core/circuit.py, function by function.
--
-- A circuit is never changed, but copied with changes. Texts were cut by whoever sent them.

local circuit = {}

local MAX_PERMITS = 1064
local MAX_TRIAL_TIMEOUT = 3600 * 1000000
local RAMP_FLOOR = 0.1

local function replace(old, changes)
  local new = {}
  for key, value in pairs(old) do
    new[key] = value
  end
  for key, value in pairs(changes) do
    new[key] = value
  end
  return new
end

function circuit.new(epoch, since)
  return {
    epoch = epoch,
    state = 'closed',
    since = since or 0,
    retry_at = 0,
    openings = 0,
    failures = {},
    slices = {},
    suspect_since = 0,
    witnesses = {},
    spared = 0,
    trials = 0,
    trial_successes = 0,
    permits = {},
    override = false,
    actor = '',
    reason = '',
    last_error = '',
    last_message = '',
    last_error_at = 0,
  }
end

-- As Python rounds: a half to the even neighbour.
local function round(value)
  local whole = math.floor(value)
  local rest = value - whole
  if rest > 0.5 or (rest == 0.5 and whole % 2 == 1) then
    return whole + 1
  end
  return whole
end

local function next_epoch(c, now)
  return math.max(now, c.epoch + 1)
end

-- -- modes ------------------------------------------------------------------------------------

local function without(override, c, now)
  if override.mode == 'metrics_only' then
    local left = override.aside or circuit.new(1, now)
    return replace(left, { epoch = c.epoch + 1, override = false })
  end
  if override.mode ~= 'forced_open' then
    return replace(c, { override = false })
  end
  return replace(c, {
    state = 'open',
    since = c.state == 'open' and c.since or override.since,
    retry_at = now,
    openings = math.max(1, c.openings),
    failures = {},
    slices = {},
    suspect_since = 0,
    witnesses = {},
    trial_successes = 0,
    override = false,
    actor = override.actor,
    reason = 'the hold is over',
  })
end

function circuit.settle(c, now)
  local override = c.override
  if not override or not override['until'] or now < override['until'] then
    return c
  end
  return without(override, c, override['until'])
end

local function mode_of(c, policy)
  return c.override and c.override.mode or policy.initial_mode
end

local function paper(c)
  return c.override and c.override.epoch or 0
end

local function counts(c, policy)
  local mode = mode_of(c, policy)
  return mode == 'auto' or mode == 'metrics_only'
end

local function clamp(c, policy, now)
  local latest = now + policy.longest_wait
  if c.retry_at > latest then
    c = replace(c, { retry_at = latest })
  end
  if c.since > now then
    c = replace(c, { since = now })
  end
  return c
end

local function automatic(c, policy, now)
  if c.state == 'closed' then
    return 'closed'
  end
  return clamp(c, policy, now).retry_at > now and 'open' or 'half_open'
end

local function effective(c, policy, now)
  c = circuit.settle(c, now)
  local mode = mode_of(c, policy)
  if mode == 'auto' then
    return automatic(c, policy, now)
  end
  return mode == 'forced_open' and 'open' or 'closed'
end

local function share(c, policy, now)
  if c.state == 'open' or c.openings == 0 or policy.ramp_up == 0 then
    return 1
  end
  return math.min(1, math.max(RAMP_FLOOR, (now - c.since) / policy.ramp_up))
end

-- -- transitions ------------------------------------------------------------------------------

local function moved(before, after, policy, now, cause, order)
  local mode = mode_of(after, policy)
  local look = (not order and mode == 'metrics_only') and automatic or effective
  local state = look(after, policy, now)
  local explains = not order and state == 'open'
  local seen = window.total(before.slices, policy, now)
  return after, {
    epoch = after.epoch,
    at = now,
    before = look(before, policy, now),
    after = state,
    mode = mode,
    cause = cause,
    actor = order and order.actor or '',
    reason = order and order.reason or '',
    failures = math.max(seen.failures, #window.live(before.failures, policy, now)),
    last_error = explains and after.last_error or '',
    calls = seen.calls,
    slow = seen.slow,
    last_message = explains and after.last_message or '',
  }
end

local function wait_for(policy, openings, asked, chance)
  local wait = policy.recovery_timeout * policy.recovery_backoff ^ (openings - 1)
  wait = math.min(math.max(wait, asked / 1000000), policy.wait_max)
  chance = chance * 40503 % 65536 / 65536
  return round(wait * (1 + policy.recovery_jitter * chance) * 1000000)
end

local function open(c, policy, now, cause, asked, order)
  local was_open = c.state == 'open'
  local reason = cause
  if order then
    reason = order.reason
  elseif c.last_error ~= '' then
    reason = cause .. ', last ' .. c.last_error
  end
  local epoch, openings = next_epoch(c, now), 1
  if was_open or share(c, policy, now) < 1 then
    openings = c.openings + (order and 0 or 1)
  end
  local chance = epoch % 65536  -- the whole sum would be too long for a double
  for _, time in ipairs(c.failures) do
    chance = (chance + time % 65536) % 65536
  end
  local opened = replace(c, {
    epoch = epoch,
    state = 'open',
    since = was_open and c.since or now,
    retry_at = now + wait_for(policy, openings, asked, chance),
    openings = openings,
    failures = {},
    slices = {},
    suspect_since = 0,
    witnesses = {},
    trials = 0,
    trial_successes = 0,
    permits = {},
    actor = order and order.actor or '',
    reason = reason,
  })
  return moved(c, opened, policy, now, cause, order)
end

local function close(c, policy, now, cause, order)
  local closed = circuit.new(next_epoch(c, now), now)
  closed.reason = order and order.reason or cause
  closed.last_error = c.last_error
  closed.last_message = c.last_message
  closed.last_error_at = c.last_error_at
  if order then
    closed.actor = order.actor
  else
    closed.openings = policy.ramp_up > 0 and c.openings or 0
    closed.spared = c.spared
    closed.override = c.override
  end
  return moved(c, closed, policy, now, cause, order)
end

-- -- counting ---------------------------------------------------------------------------------

function circuit.is_suspect(c, policy, now)
  local seen = window.total(c.slices, policy, now)
  return seen.failures > 0 or seen.slow > 0
end

function circuit.is_blank(c, policy, now)
  c = circuit.settle(c, now)
  return c.state == 'closed'
    and not c.override
    and share(c, policy, now) == 1
    and #window.live(c.failures, policy, now) == 0
    and not circuit.is_suspect(c, policy, now)
end

local function with_error(c, told, at)
  return replace(c, {
    last_error = told.last_error,
    last_message = told.last_message,
    last_error_at = at,
  })
end

local function with_witness(c, batch, times, policy)
  local last = false
  for _, time in ipairs(times) do
    last = math.max(last or time, time)
  end
  for _, one in ipairs(batch.slices) do
    if one.failures > 0 or one.slow > 0 then
      last = math.max(last or one.start, one.start)
    end
  end
  if not last then
    return c
  end
  local witnesses = {}
  for _, one in ipairs(c.witnesses) do
    if one.origin ~= batch.origin then
      witnesses[#witnesses + 1] = one
    end
  end
  witnesses[#witnesses + 1] = { origin = batch.origin, seen_at = last }
  -- By insertion, which keeps the order of equals as Python's sort does.
  for position = 2, #witnesses do
    local one, place = witnesses[position], position
    while place > 1 and witnesses[place - 1].seen_at > one.seen_at do
      witnesses[place] = witnesses[place - 1]
      place = place - 1
    end
    witnesses[place] = one
  end
  return replace(c, { witnesses = window.newest(witnesses, policy.quorum) })
end

local function with_batch(c, batch, policy, now)
  local times = {}
  for position, age in ipairs(batch.ages) do
    times[position] = now - math.max(0, age)
  end
  local was_suspect = circuit.is_suspect(c, policy, now)
  c = replace(c, {
    failures = window.add(c.failures, times, policy),
    slices = policy.has_rates and window.merge(c.slices, batch.slices, policy, now) or {},
  })
  if #times > 0 then
    c = with_error(c, batch, math.max(unpack(times)))
  end
  if not was_suspect and circuit.is_suspect(c, policy, now) then
    c.suspect_since = now
  end
  if policy.quorum > 1 then
    c = with_witness(c, batch, times, policy)
  end
  return c
end

local function has_quorum(c, policy, now)
  if policy.quorum == 1 then
    return true
  end
  local times = {}
  for position, one in ipairs(c.witnesses) do
    times[position] = one.seen_at
  end
  return #window.live(times, policy, now) >= policy.quorum
end

function circuit.record(c, batch, policy, now)
  c = circuit.settle(c, now)
  local on_paper = mode_of(c, policy) == 'metrics_only'
  if batch.spared > 0 and on_paper and batch.paper == paper(c) then
    c = replace(c, { spared = c.spared + batch.spared })
  end
  if batch.epoch ~= c.epoch or c.state ~= 'closed' or not counts(c, policy) then
    return c
  end
  c = with_batch(c, batch, policy, now)
  local relapse = #batch.ages > 0
  for _, one in ipairs(batch.slices) do
    relapse = relapse or one.failures > 0 or one.slow > 0
  end
  local why
  if relapse and share(c, policy, now) < 1 then
    why = 'a relapse while it ramped up'
  else
    local complete = now - c.suspect_since >= batch.patience
    local slices = (complete and circuit.is_suspect(c, policy, now)) and c.slices or {}
    why = window.why_tripped(c.failures, slices, batch.streak, policy, now)
  end
  if not why or not has_quorum(c, policy, now) then
    return c
  end
  return open(c, policy, now, why, batch.retry_after)
end

-- -- trials -----------------------------------------------------------------------------------

local function is_live(permit, now)
  return now < permit.expires and permit.expires <= now + MAX_TRIAL_TIMEOUT
end

-- The circuit, whether there is a permit, for how long there will be none, and an event.
function circuit.acquire(c, epoch, token, policy, now)
  c = circuit.settle(c, now)
  if c.epoch ~= epoch or c.state == 'closed' or not counts(c, policy) then
    return c, false
  end
  c = clamp(c, policy, now)
  if now < c.retry_at then
    return c, false, c.retry_at - now
  end
  local live, permits, first = 0, {}, false
  for _, permit in ipairs(c.permits) do
    if permit.token == token then
      return c, true
    end
    if is_live(permit, now) then
      live = live + 1
      first = math.min(first or permit.expires, permit.expires)
    else
      permits[#permits + 1] = permit
    end
  end
  if live >= policy.half_open_max_calls then
    return c, false, first - now
  end
  for _, permit in ipairs(c.permits) do
    if is_live(permit, now) then
      permits[#permits + 1] = permit
    end
  end
  permits[#permits + 1] = { token = token, expires = now + policy.trial_timeout }
  c = replace(c, { permits = window.newest(permits, MAX_PERMITS), trials = c.trials + 1 })
  if c.trials > 1 then
    return c, true
  end
  return c, true, nil, {
    epoch = c.epoch,
    at = now,
    before = 'open',
    after = 'half_open',
    mode = mode_of(c, policy),
    cause = 'first trial',
    actor = '',
    reason = '',
    failures = 0,
    last_error = '',
    calls = 0,
    slow = 0,
    last_message = '',
  }
end

function circuit.report(c, one, policy, now)
  c = circuit.settle(c, now)
  if c.epoch ~= one.epoch then
    return c
  end
  local permits = {}
  for _, permit in ipairs(c.permits) do
    if permit.token ~= one.token then
      permits[#permits + 1] = permit
    end
  end
  if #permits == #c.permits then
    return c
  end
  c = replace(c, { permits = permits })
  if one.outcome == 'ignored' then
    return c
  end
  if one.outcome == 'failure' then
    c = with_error(c, one, now)
    return open(c, policy, now, 'a trial failed', one.retry_after)
  end
  local successes = c.trial_successes + 1
  if successes < policy.success_threshold then
    return replace(c, { trial_successes = successes })
  end
  local why = successes == 1 and 'a trial succeeded'
    or record.number(successes) .. ' trials succeeded'
  return close(c, policy, now, why)
end

-- -- commands ---------------------------------------------------------------------------------

local MODES = { hold = 'forced_open', disable = 'disabled', metrics_only = 'metrics_only' }

local function enable(c, policy, now, order)
  if mode_of(c, policy) == 'auto' then
    return c
  end
  local epoch = next_epoch(c, now)
  -- Without one the mode is the one that the policy begins with.
  local override = c.override
    or { mode = mode_of(c, policy), epoch = epoch, since = now, actor = '', reason = '' }
  local after = replace(without(override, c, now), { epoch = epoch, permits = {}, trials = 0 })
  if policy.initial_mode ~= 'auto' then
    after.override = {
      mode = 'auto',
      epoch = epoch,
      since = now,
      ['until'] = false,
      actor = order.actor,
      reason = order.reason,
      aside = false,
    }
  end
  return moved(c, after, policy, now, order.kind, order)
end

-- `nil` when the circuit is not at the expected epoch.
function circuit.command(c, order, policy, now)
  if order.expected_epoch and order.expected_epoch ~= c.epoch then
    return nil
  end
  c = circuit.settle(c, now)
  if order.kind == 'reset' then
    return close(c, policy, now, order.kind, order)
  elseif order.kind == 'trip' then
    return open(c, policy, now, order.kind, 0, order)
  elseif order.kind == 'enable' then
    return enable(c, policy, now, order)
  end
  local mode, epoch = MODES[order.kind], next_epoch(c, now)
  local left = c.override and c.override.aside or c
  left = replace(left, { override = false, permits = {}, trials = 0 })
  local paper = mode == 'metrics_only'
  local after = replace(paper and circuit.new(epoch, now) or left, {
    epoch = epoch,
    override = {
      mode = mode,
      epoch = epoch,
      since = now,
      ['until'] = order.duration and now + order.duration or false,
      actor = order.actor,
      reason = order.reason,
      aside = paper and left or false,
    },
  })
  return moved(c, after, policy, now, order.kind, order)
end
