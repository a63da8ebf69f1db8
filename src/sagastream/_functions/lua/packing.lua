-- The forms of a request's record: how its parts are packed.
--
-- State, command, waiting record and ended record are MessagePack values in the order of the
-- functions below.

local MARK = '\192' -- MessagePack's nil, which stands before the layout
-- This many bytes of a digest, and digits of a token, are as good as all of them.
local DIGEST_LENGTH, TOKEN_LENGTH = 8, 8
local STATUS_OF = { c = 'completed', f = 'failed', x = 'cancelled' }
local LETTER_OF = { completed = 'c', failed = 'f', cancelled = 'x' }
-- The letter of a waiting record, and where a packed record has its letter.
local WAITING, LETTER_AT = 'p', 4
-- The id of the entry of a request that has none.
local NO_ENTRY = '0-0'
-- The fields of a command's entry, in their order.
local COMMAND_FIELDS = { 'correlation_id', 'request_id', 'saga_id', 'event_type', 'payload', 'reply_stream',
  'v', 'traceparent', 'tracestate', 'parent_span_id', 'deadline', 'timestamp' }

-- What tells two commands apart that have the same id; the client computes the same.
local function digest_of(stream, event_type, payload)
  local hex = redis.sha1hex(stream .. '\n' .. event_type .. '\n' .. payload)
  return (string.gsub(string.sub(hex, 1, 2 * DIGEST_LENGTH), '..', function(byte)
    return string.char(tonumber(byte, 16))
  end))
end

-- An entry's id in few bytes: how long before `at` it was added, and the rest of it.
local function pack_id(entry_id, at)
  if string.byte(entry_id, 14) ~= 45 then
    return entry_id, '' -- its time does not have 13 digits
  end
  return at - string.sub(entry_id, 1, 13), string.sub(entry_id, 14)
end

local function unpack_id(before_ms, rest, at)
  return type(before_ms) == 'number' and int(at - before_ms) .. rest or before_ms
end

local function require_layout(layout)
  if layout and layout ~= LAYOUT_TEXT and tonumber(layout) > LAYOUT then
    error({ err = 'LAYOUT ' .. layout .. ' ' .. LAYOUT })
  end
end

local function unpack_state(packed)
  local status, epoch, entry_id, reply_streams, end_streams, effect, context, after, followed, token, consumer,
    lease_until, began, seq, progressed, span, lost, released, cancel, held_until, span_taken,
    attempts, failures, due, turn, waits, permits = cmsgpack.unpack(packed)
  return {
    status = status, epoch = epoch, entry_id = entry_id, reply_streams = reply_streams, end_streams = end_streams,
    effect = effect, context = context, after = after, followed = followed, token = token or '',
    consumer = consumer or '', lease_until = lease_until or 0, began = began or 0, seq = seq or 0,
    progressed = progressed or 0, span = span or '', lost = lost or '', released = released or 0,
    cancel = cancel or '', held_until = held_until or 0, span_taken = span_taken or '', attempts = attempts or epoch,
    failures = failures or 0, due = due or 0, turn = turn or '', waits = waits or '', permits = permits or '',
  }
end

local function pack_state(record)
  -- Each value costs time, and most records have none of the last ones.
  if record.failures == 0 and record.due == 0 and record.turn == '' and record.waits == '' and record.permits == '' then
    return cmsgpack.pack(record.status, record.epoch, record.entry_id, record.reply_streams, record.end_streams,
      record.effect, record.context, record.after, record.followed, record.token, record.consumer, record.lease_until,
      record.began, record.seq, record.progressed, record.span, record.lost, record.released, record.cancel,
      record.held_until, record.span_taken, record.attempts)
  end
  return cmsgpack.pack(record.status, record.epoch, record.entry_id, record.reply_streams, record.end_streams,
    record.effect, record.context, record.after, record.followed, record.token, record.consumer, record.lease_until,
    record.began, record.seq, record.progressed, record.span, record.lost, record.released, record.cancel,
    record.held_until, record.span_taken, record.attempts, record.failures, record.due, record.turn, record.waits,
    record.permits)
end

local function pack_command(command)
  return cmsgpack.pack(command.digest, command.stream, command.correlation_id, command.saga_id, command.event_type,
    command.reply_stream, command.v, command.traceparent, command.tracestate, command.parent_span_id,
    command.deadline, command.timestamp)
end

local function unpack_command(packed)
  local digest, stream, correlation_id, saga_id, event_type, reply_stream, v, traceparent, tracestate,
    parent_span_id, deadline, timestamp = cmsgpack.unpack(packed)
  return {
    digest = digest, stream = stream, correlation_id = correlation_id, saga_id = saga_id, event_type = event_type,
    reply_stream = reply_stream, v = v, traceparent = traceparent, tracestate = tracestate,
    parent_span_id = parent_span_id, deadline = deadline, timestamp = timestamp,
  }
end

-- Whether a stream is the inbox of a client: a long name that the client made.
local function is_inbox(call, key, stream)
  local at = #prefix_of(call, key) + 1
  return #stream >= at + 36 and string.find(stream, 'replies:', at, true) == at
end

-- A short name of a reply stream that has the terminal reply; '' for that of the saga, which
-- always has it. The end of an inbox's name tells it apart. Line ends keep one name from being
-- found within another.
local function mark_of(call, key, command, stream)
  if is_inbox(call, key, stream) then
    return '\n' .. string.sub(stream, -12)
  end
  local at = #prefix_of(call, key) + 1
  if command.saga_id ~= '' and string.sub(stream, at) == 'saga:' .. command.saga_id .. ':replies' then
    return ''
  end
  return '\n' .. stream .. '\n'
end

-- The marks of all streams that get the end of a request.
local function marks_of(call, key, record, command)
  if record.reply_streams == '' and not string.find(record.end_streams, '\n', 1, true) then
    return record.end_streams == '' and '' or mark_of(call, key, command, record.end_streams)
  end
  local marks = {}
  for _, stream in ipairs(lines(record.reply_streams .. '\n' .. record.end_streams)) do
    marks[#marks + 1] = mark_of(call, key, command, stream)
  end
  return table.concat(marks)
end

-- `told` has the marks of the streams that have the terminal reply.
local function pack_ended(record, status, payload, trace, at, told)
  local command = record.command
  local took_ms = record.began > 0 and at - record.began or -1
  local before_ms, rest = pack_id(record.entry_id, at)
  local epoch = record.epoch > 0 and at - record.epoch
  return cmsgpack.pack(nil, LAYOUT, LETTER_OF[status], epoch, at, took_ms, before_ms, rest, command.digest,
    command.correlation_id, command.saga_id, command.event_type, payload, string.sub(record.token, 1, TOKEN_LENGTH),
    told, record.span_taken, trace[1], trace[2], trace[3], record.attempts)
end

local function unpack_ended(packed)
  require_layout(string.byte(packed, 2))
  local _, _, letter, epoch, at, took_ms, before_ms, rest, digest, correlation_id, saga_id, event_type, payload, token,
    told, span_taken, traceparent, tracestate, parent_span_id, attempts = cmsgpack.unpack(packed)
  if attempts then
    epoch = epoch and at - epoch or 0
  else
    attempts = epoch -- layout 3
  end
  return {
    status = STATUS_OF[letter], epoch = epoch, attempts = attempts, at = at, began = took_ms >= 0 and at - took_ms or 0,
    entry_id = unpack_id(before_ms, rest, at), payload = payload, token = token, told = told,
    span_taken = span_taken, trace = { traceparent, tracestate, parent_span_id }, is_packed = true,
    reply_streams = '', end_streams = '', held_until = 0, lease_until = 0, span = '', cancel = '', consumer = '',
    permits = '', waits = '',
    command = {
      digest = digest, correlation_id = correlation_id, saga_id = saga_id, event_type = event_type,
    },
  }
end

-- The command of a record.
local function command_of(record)
  if not record.command then
    record.command = unpack_command(record.packed_command)
  end
  return record.command
end

-- The record of a request that waits and has never begun: its command, `payload_sent`, and what it
-- waits for. Most of what follows the first values is empty in most records, and then it is left out.
local function pack_waiting(record)
  local command = command_of(record)
  local waited_ms = record.due > 0 and record.due - command.timestamp or 0
  local rest = { command.saga_id, command.reply_stream, command.tracestate, command.deadline, record.reply_streams,
    record.end_streams, record.effect, record.context, record.after, record.followed, record.turn, record.waits,
    record.permits }
  local is_plain = command.v == VERSION
  for _, value in ipairs(rest) do
    is_plain = is_plain and (value == '' or value == false)
  end
  if is_plain then
    rest = {}
  else
    rest[#rest + 1] = command.v
  end
  return cmsgpack.pack(nil, LAYOUT, WAITING, command.stream, shorten(command.correlation_id), command.event_type,
    record.payload_sent, command.timestamp, waited_ms, shorten(command.traceparent),
    shorten(command.parent_span_id), unpack(rest))
end

-- The record of a command that nobody has begun, before it is written.
local function new_record(command, reply_streams, end_streams)
  local record = unpack_state(cmsgpack.pack('pending', 0, NO_ENTRY, reply_streams, end_streams, '', '', '', false))
  record.command = command
  return record
end

local function unpack_waiting(packed)
  require_layout(string.byte(packed, 2))
  local _, _, _, stream, correlation_id, event_type, payload, timestamp, waited_ms, traceparent,
    parent_span_id, saga_id, reply_stream, tracestate, deadline, reply_streams, end_streams, effect, context, after,
    followed, turn, waits, permits, v = cmsgpack.unpack(packed)
  local record = new_record({
    digest = digest_of(stream, event_type, payload), stream = stream, correlation_id = restore(correlation_id),
    saga_id = saga_id or '', event_type = event_type, reply_stream = reply_stream or '', v = v or VERSION,
    traceparent = restore(traceparent), tracestate = tracestate or '', parent_span_id = restore(parent_span_id),
    deadline = deadline or '', timestamp = timestamp,
  }, reply_streams or '', end_streams or '')
  record.effect, record.context, record.after = effect or '', context or '', after or ''
  record.followed, record.turn, record.waits, record.permits = followed or false, turn or '', waits or '', permits or ''
  record.due, record.payload_sent = waited_ms > 0 and timestamp + waited_ms or 0, payload
  return record
end
