-- Circuits and events as JSON text, in the form of core/record.py.
--
-- Numbers are doubles: whole ones are exact below 2^53, which in microseconds is the year 2255.
-- They are written by hand, for cjson may write 14 digits, and an empty list as {}.
-- What may be missing is `false` here and `null` in the text.

local record = {}

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

function record.load(json)
  return read(cjson.decode(json))
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
