-- A request's record: how it is read and written.
--
-- The record of an open request is a hash: `layout`, `state` (what the transitions change),
-- `command` (what they do not change), `payload`, and `progress` (the payload of the last progress
-- stage). Before the command is emitted it may be a note: `cancel` or `followed`. A request that
-- waits for its time or its turn and has never begun is a string with all of it, half as large. The
-- record of an ended request is a string too: MARK, and what a later requester needs. It stays a
-- hash, with that string as `ended`, while the handler of a superseded request may still run.

-- Write what the transitions change. A request that waits and has never begun has its payload in
-- `payload_sent`.
local function write_state(key, record)
  if not record.payload_sent then
    redis.call('HSET', key, 'state', pack_state(record))
  elseif record.status == 'pending' and record.entry_id == NO_ENTRY then
    redis.call('SET', key, pack_waiting(record), 'KEEPTTL')
  else
    local ttl_ms = redis.call('PTTL', key)
    redis.call('DEL', key)
    redis.call('HSET', key, 'layout', LAYOUT_TEXT, 'state', pack_state(record), 'command',
      pack_command(command_of(record)), 'payload', record.payload_sent)
    record.payload_sent = nil
    if ttl_ms > 0 then
      redis.call('PEXPIRE', key, ttl_ms)
    end
  end
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
    return string.sub(packed, LETTER_AT, LETTER_AT) == WAITING and unpack_waiting(packed) or unpack_ended(packed)
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

-- Write the record of a command that has an entry: the streams of its replies, the effect that its
-- handler must declare, what other propagators carry, the records that it waits for, and whether it
-- is followed.
-- A stream's open requests are in a sorted set next to it, the oldest first, so that commands
-- whose entries were lost can be requeued.
local function add_record(call, key, stream, packed_command, payload, entry_id, reply_streams, end_streams, ...)
  local state = cmsgpack.pack('pending', 0, entry_id, reply_streams, end_streams, ...)
  append(call.opened, stream, call.now_text, key)
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
  local payload = record.payload_sent or redis.call('HGET', key, 'payload')
  return command_fields(call, key, command_of(record), payload)
end
