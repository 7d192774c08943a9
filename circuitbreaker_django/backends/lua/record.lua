-- Circuits and events as JSON text, in the form of core/record.py.
--
-- Numbers are doubles: whole ones are exact below 2^53, which in microseconds is the year 2255.
-- They are written by hand, for cjson may write 14 digits, and an empty list as {}.
-- What may be missing is `false` here and `null` in the text.
--
-- Anybody may have put something else there, so what comes is checked field by field, as in Python.

local record = {}

local LIMIT = 2 ^ 53
local STATES = { closed = true, open = true }
local MODES = { auto = true, forced_open = true, disabled = true, metrics_only = true }

function record.number(value)
  return string.format('%.0f', value)
end

local function text(value)
  return cjson.encode(value)
end

local function list(items, write)
  local written = {}
  for position, item in ipairs(items) do
    written[position] = write(item)
  end
  return '[' .. table.concat(written, ',') .. ']'
end

local function slice(one)
  return string.format(
    '{"start":%.0f,"calls":%.0f,"failures":%.0f,"slow":%.0f}',
    one.start, one.calls, one.failures, one.slow
  )
end

local function witness(one)
  return '{"origin":' .. text(one.origin) .. ',"seen_at":' .. record.number(one.seen_at) .. '}'
end

local function permit(one)
  return '{"token":' .. text(one.token) .. ',"expires":' .. record.number(one.expires) .. '}'
end

local function override(one)
  if not one then
    return 'null'
  end
  return table.concat {
    '{"mode":', text(one.mode),
    ',"epoch":', record.number(one.epoch),
    ',"since":', record.number(one.since),
    ',"until":', one['until'] and record.number(one['until']) or 'null',
    ',"actor":', text(one.actor),
    ',"reason":', text(one.reason),
    ',"aside":', one.aside and record.dump(one.aside) or 'null',
    '}',
  }
end

function record.dump(circuit)
  return table.concat {
    '{"epoch":', record.number(circuit.epoch),
    ',"state":', text(circuit.state),
    ',"since":', record.number(circuit.since),
    ',"retry_at":', record.number(circuit.retry_at),
    ',"openings":', record.number(circuit.openings),
    ',"failures":', list(circuit.failures, record.number),
    ',"slices":', list(circuit.slices, slice),
    ',"suspect_since":', record.number(circuit.suspect_since),
    ',"witnesses":', list(circuit.witnesses, witness),
    ',"spared":', record.number(circuit.spared),
    ',"trials":', record.number(circuit.trials),
    ',"trial_successes":', record.number(circuit.trial_successes),
    ',"permits":', list(circuit.permits, permit),
    ',"override":', override(circuit.override),
    ',"actor":', text(circuit.actor),
    ',"reason":', text(circuit.reason),
    ',"last_error":', text(circuit.last_error),
    ',"last_message":', text(circuit.last_message),
    ',"last_error_at":', record.number(circuit.last_error_at),
    '}',
  }
end

local function is_text(value)
  return type(value) == 'string'
end

local function is_state(value)
  return STATES[value] or false
end

local function is_mode(value)
  return MODES[value] or false
end

local function is_whole(value)
  return type(value) == 'number' and value % 1 == 0 and math.abs(value) < LIMIT
end

local function is_count(value)
  return is_whole(value) and value >= 0
end

-- The number that a text is; 0 if it is none.
function record.count(text)
  local value = tonumber(text)
  return is_count(value) and value or 0
end

local function is_epoch(value)
  return is_whole(value) and value >= 1
end

local function or_null(is_fine)
  return function(value)
    return value == cjson.null or is_fine(value)
  end
end

local function list_of(is_fine)
  return function(value)
    if type(value) ~= 'table' then
      return false
    end
    for position, item in pairs(value) do
      if type(position) ~= 'number' or not is_fine(item) then
        return false
      end
    end
    return true
  end
end

local function with(fields)
  return function(value)
    if type(value) ~= 'table' then
      return false
    end
    for name, is_fine in pairs(fields) do
      if not is_fine(value[name]) then
        return false
      end
    end
    return true
  end
end

local is_circuit
is_circuit = with {
  epoch = is_epoch,
  state = is_state,
  since = is_whole,
  retry_at = is_whole,
  openings = is_count,
  failures = list_of(is_whole),
  slices = list_of(with {
    start = is_whole, calls = is_count, failures = is_count, slow = is_count,
  }),
  suspect_since = is_whole,
  witnesses = list_of(with { origin = is_text, seen_at = is_whole }),
  spared = is_count,
  trials = is_count,
  trial_successes = is_count,
  permits = list_of(with { token = is_text, expires = is_whole }),
  override = or_null(with {
    mode = is_mode,
    epoch = is_whole,
    since = is_whole,
    ['until'] = or_null(is_whole),
    actor = is_text,
    reason = is_text,
    aside = or_null(function(value) return is_circuit(value) end),
  }),
  actor = is_text,
  reason = is_text,
  last_error = is_text,
  last_message = is_text,
  last_error_at = is_whole,
}

local function without_null(value)
  return value ~= cjson.null and value or false
end

local function read(circuit)
  local mode = without_null(circuit.override)
  circuit.override = mode
  if mode then
    mode['until'] = without_null(mode['until'])
    mode.aside = without_null(mode.aside)
    if mode.aside then
      read(mode.aside)
    end
  end
  return circuit
end

-- The circuit; nil if it is none.
function record.load(json)
  local is_json, circuit = pcall(cjson.decode, json)
  return is_json and is_circuit(circuit) and read(circuit) or nil
end

function record.dump_event(event)
  return table.concat {
    '{"epoch":', record.number(event.epoch),
    ',"at":', record.number(event.at),
    ',"before":', text(event.before),
    ',"after":', text(event.after),
    ',"mode":', text(event.mode),
    ',"cause":', text(event.cause),
    ',"actor":', text(event.actor),
    ',"reason":', text(event.reason),
    ',"failures":', record.number(event.failures),
    ',"last_error":', text(event.last_error),
    ',"calls":', record.number(event.calls),
    ',"slow":', record.number(event.slow),
    ',"last_message":', text(event.last_message),
    '}',
  }
end
