-- A request's record: how it is stored, read and written.
--
-- The record of an open request is a hash: `layout`, `state` (what the transitions change),
-- `command` (what they do not change), `payload`, and `progress` (the payload of the last progress
-- stage). Before the command is emitted it may be a note: `cancel` or `followed`. The record of an
-- ended request is a string, a fifth as large: MARK, and what a later requester needs. It stays a
-- hash, with that string as `ended`, while the handler of a superseded request may still run.
-- State, command and ended record are MessagePack values in the order of the functions below.

local MARK = '\192' -- MessagePack's nil, which stands before the layout
-- This many bytes of a digest, and digits of a token, are as good as all of them.
local DIGEST_LENGTH, TOKEN_LENGTH = 8, 8
local STATUS_OF = { c = 'completed', f = 'failed', x = 'cancelled' }
local LETTER_OF = { completed = 'c', failed = 'f', cancelled = 'x' }
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

local function write_state(key, record)
  redis.call('HSET', key, 'state', pack_state(record))
end

-- Read the record of a layout before 3, a hash with a field for each value.
local function read_old(key)
  local flat, old = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    old[flat[i]] = flat[i + 1]
  end
  require_layout(old.layout)
  local record = {
    status = old.status, epoch = tonumber(old.epoch), attempts = tonumber(old.epoch), entry_id = old.entry_id, reply_streams = old.reply_streams,
    end_streams = old.end_streams or '', effect = old.effect or '', context = old.context or '',
    after = old.after or '', followed = old.followed == '1', token = old.token or '', consumer = old.consumer or '',
    lease_until = tonumber(old.lease_until or '0'), began = tonumber(old.began or '0'),
    seq = tonumber(old.seq or '0'), progressed = tonumber(old.progress and old.began or '0'), span = old.span or '',
    lost = old.lost or '', released = tonumber(old.released or '0'), cancel = old.cancel or '',
    held_until = tonumber(old.held_until or '0'), span_taken = old.span_taken or '', progress = old.progress,
    failures = 0, due = 0, turn = '', waits = '', permits = '',
  }
  local command = { stream = old.stream }
  for _, name in ipairs(COMMAND_FIELDS) do
    command[name] = old[name] or ''
  end
  -- The payload of an ended one is its result: nothing can be compared with its command any more.
  command.digest = TERMINAL[old.status] and '' or digest_of(old.stream, old.event_type, old.payload)
  record.command = command
  if TERMINAL[record.status] then
    record.at, record.trace = tonumber(old.timestamp), { command.traceparent, command.tracestate, command.parent_span_id }
    record.payload = old.payload
  end
  return record
end

-- Write a record of a layout before 3 anew.
local function upgrade(call, key, record)
  local ttl_ms, payload = redis.call('PTTL', key), redis.call('HGET', key, 'payload')
  redis.call('DEL', key)
  redis.call('HSET', key, 'layout', LAYOUT_TEXT, 'state', pack_state(record), 'command', pack_command(record.command),
    'payload', payload)
  if record.progress then
    redis.call('HSET', key, 'progress', record.progress)
  end
  if record.at then
    local told = marks_of(call, key, record, record.command)
    redis.call('HSET', key, 'ended', pack_ended(record, record.status, payload, record.trace, record.at, told))
  end
  if ttl_ms > 0 then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end

-- Read what there is without a state: nothing, a note, or a record of an old layout.
local function read_note(call, key, may_not_write)
  local cancel, followed, digest = unpack(redis.call('HMGET', key, 'cancel', 'followed', 'digest'), 1, 3)
  if not digest then
    return { cancel = cancel, followed = followed }
  end
  local record = read_old(key)
  if not may_not_write then
    upgrade(call, key, record)
  end
  return record
end

-- Read a record. Without `status` it is a note, or there is none. `inspect` may not write.
local function read_record(call, key, may_not_write)
  local values = redis.pcall('HMGET', key, 'layout', 'state', 'command')
  if values.err then
    local packed = redis.call('GET', key) or ''
    if string.sub(packed, 1, 1) ~= MARK then
      error({ err = 'WRONGTYPE ' .. key .. ' is a string, expected a record' })
    end
    return unpack_ended(packed)
  end
  require_layout(values[1])
  if not values[2] then
    return read_note(call, key, may_not_write)
  end
  if values[1] ~= LAYOUT_TEXT and not may_not_write then
    redis.call('HSET', key, 'layout', LAYOUT_TEXT) -- what changes it now, the release before cannot read
  end
  local record = unpack_state(values[2])
  record.packed_command = values[3]
  if TERMINAL[record.status] then
    local ended = unpack_ended(redis.call('HGET', key, 'ended'))
    record.at, record.payload, record.trace = ended.at, ended.payload, ended.trace
  end
  return record
end

-- The payload of the last progress stage, '' if there is none.
local function last_progress(key, record)
  return record.progressed > 0 and redis.call('HGET', key, 'progress') or ''
end

-- The record of a command that nobody has begun, before it is written.
local function new_record(command, reply_streams, end_streams)
  local record = unpack_state(cmsgpack.pack('pending', 0, '0-0', reply_streams, end_streams, '', '', '', false))
  record.command = command
  return record
end

-- Write the record of a command that has been emitted: its entry, when it is due (0 for now), its turn
-- ('' for none), the streams of its replies, the effect that its handler must declare, what other
-- propagators carry, the records that it waits for, and whether it is followed.
-- A stream's open requests are in a sorted set next to it, the oldest first, so that commands
-- whose entries were lost can be requeued.
local function add_record(call, key, stream, packed_command, payload, entry_id, due, turn, reply_streams, end_streams,
  ...)
  local state = cmsgpack.pack('pending', 0, entry_id, reply_streams, end_streams, ...)
  if due > 0 or turn ~= '' then
    local record = unpack_state(state)
    record.due, record.turn = due, turn
    state = pack_state(record)
  end
  if due > 0 then
    redis.call('ZADD', stream .. ':delayed', int(due), key)
  elseif turn == '' then
    append(call.opened, stream, call.now_text, key)
  end
  redis.call('HSET', key, 'layout', LAYOUT_TEXT, 'command', packed_command, 'payload', payload, 'state', state)
end

-- These fields are in an entry only with a value.
local OPTIONAL = { v = true, deadline = true, timestamp = true }

-- The entry of a command.
local function command_fields(call, key, command, payload)
  local fields = {}
  for _, name in ipairs(COMMAND_FIELDS) do
    local value = command[name]
    if name == 'request_id' then
      value = id_of(call, key)
    elseif name == 'payload' then
      value = payload
    end
    if value ~= '' or not OPTIONAL[name] then
      fields[#fields + 1], fields[#fields + 2] = name, type(value) == 'number' and int(value) or value
    end
  end
  return fields
end

-- The entry of a request's command, from its record.
local function command_entry(call, key, record)
  return command_fields(call, key, command_of(record), redis.call('HGET', key, 'payload'))
end
