-- The begin of a request, and what its requesters ask for: emit, adopt, follow, cancel, look.

-- Note a cancel that comes before its command.
local function note_cancel(key, trace, ttl_ms)
  redis.call('HSET', key, 'layout', int(LAYOUT), 'cancel', cjson.encode(trace))
  redis.call('PEXPIRE', key, int(ttl_ms))
end

-- End a request that another one supersedes, in the function that emits the other one. Its handler
-- can no longer write; if it has not been emitted yet, it never begins. Returns whether a handler
-- may still run; `held_until` then says for how long.
-- Race: a compensation is emitted while the forward handler still runs; it begins after that
-- handler has confirmed its end, or its lease has lapsed.
local function supersede(call, key, trace, retention)
  local record = read_record(key)
  if not record.status then
    if not remembered(call, key) then
      note_cancel(key, trace, retention.remember_ms)
    end
    return false
  end
  if not TERMINAL[record.status] then
    local is_running = record.status == 'running'
    record.epoch = record.epoch + 1
    record.held_until = is_running and record.lease_until or 0
    conclude(call, key, record, 'cancelled', '{}', trace, retention)
    if is_running then
      local prefix = split_key(key)
      wake(prefix .. 'listener:' .. record.consumer)
    end
  end
  return record.held_until > 0
end

-- emit: write a command's record and entry together.
-- Race: the answer is lost and the command is emitted again; its record exists, so the stream
-- gets it once. The same id with another payload is a conflict, and the id of a request whose
-- result is no longer kept is `expired`.
-- Shared: result_ms, remember_ms. Own: the fields of the entry from correlation_id to
-- parent_span_id; the keys of the reply streams, one per line; the keys of those that get only the
-- terminal stage; the digest of the command; then names and values: `deadline_ms` from now,
-- `maxlen`, `ttl_ms`, `effect` that the handler must declare, `context` of other propagators,
-- `supersedes` a record (any number of times).
-- Returns {'new' | 'known' | 'conflict', entry_id, counter} | {'expired', status, time in s}. The
-- counter grows with every command, so that a client notices when older data are restored.
local function emit(call, key, stream, shared, own)
  local retention = { result_ms = tonumber(shared[1]), remember_ms = tonumber(shared[2]) }
  local trace, options, superseded = { own[8], own[9], own[10] }, {}, {}
  for i = 14, #own, 2 do
    if own[i] == 'supersedes' then
      superseded[#superseded + 1] = own[i + 1]
    else
      options[own[i]] = own[i + 1]
    end
  end
  local spec = {
    reply_streams = own[11], end_streams = own[12], effect = options.effect or '', context = options.context or '',
    after = '', followed = false,
  }
  require_reply_streams(call, spec)
  if #superseded > 0 then
    require_type(call, stream, 'stream')
  end
  for _, other in ipairs(superseded) do
    require_reply_streams(call, read_record(other))
  end
  local now, digest = now_ms(call), own[13]
  local command = {
    digest = digest, stream = stream, correlation_id = own[1], saga_id = own[3], event_type = own[4],
    reply_stream = own[6], v = own[7], traceparent = own[8], tracestate = own[9], parent_span_id = own[10],
    deadline = options.deadline_ms and now + tonumber(options.deadline_ms) or '', timestamp = now,
  }
  local record = read_record(key)
  if record.status then
    local known = command_of(record)
    if (known.digest ~= digest and known.digest ~= '') or (known.stream or stream) ~= stream then
      return { 'conflict', record.entry_id, '0' }
    end
    add_reply_streams(call, key, record, spec, retention)
    return { 'known', record.entry_id, '0' }
  end
  local memory = remembered(call, key)
  if memory then
    if memory.digest ~= string.sub(digest, 1, SHORT_DIGEST) then
      return { 'conflict', '0-0', '0' }
    end
    return answer_expired(memory)
  end
  if record.followed then
    spec.followed, spec.reply_streams = true, with_stage_log(key, spec.reply_streams)
  end
  if record.cancel then
    -- The cancel came first: the request ends before it begins, and nothing is sent.
    local note = record.cancel
    record = new_record(command, spec)
    conclude(call, key, record, 'cancelled', '{}', cjson.decode(note), retention)
    return { 'known', '0-0', '0' }
  end

  local after = {}
  for _, other in ipairs(superseded) do
    if supersede(call, other, trace, retention) then
      after[#after + 1] = other
    end
  end
  spec.after = table.concat(after, '\n')
  local fields = {
    'correlation_id', own[1], 'request_id', own[2], 'saga_id', own[3], 'event_type', own[4], 'payload', own[5],
    'reply_stream', own[6], 'v', own[7], 'traceparent', own[8], 'tracestate', own[9], 'parent_span_id', own[10],
    'timestamp', int(now),
  }
  if options.deadline_ms then
    fields[23], fields[24] = 'deadline', int(command.deadline)
  end
  local entry_id = add_entry(stream, fields, options.maxlen, options.ttl_ms)
  if type(entry_id) == 'table' then
    error(entry_id)
  end
  local prefix = split_key(key)
  local instance = prefix .. 'sagastream:instance'
  local counter = tonumber(redis.call('HGET', instance, 'emitted') or '0') + (call.emitted[instance] or 0) + 1
  call.emitted[instance] = (call.emitted[instance] or 0) + 1
  if spec.followed then
    redis.call('DEL', key) -- the note, and its TTL: a live record has none
  end
  add_record(call, key, entry_id, command, own[5], spec)
  return { 'new', entry_id, int(counter) }
end

-- adopt: write the record of an entry that was added by plain XADD.
-- Race: two entries of one request; the one that the record names is handled, the other is acked.
-- KEYS record, stream. ARGV group, entry_id, four of the retention, the keys of the reply
-- streams, one per line, the fields of the entry, with a request_id and a correlation_id...
-- Returns {'adopted'} | {'done', status} | {'conflict'}.
local function adopt(call, keys, args)
  local key, stream, group, entry_id, reply_streams = keys[1], keys[2], args[1], args[2], args[7]
  local retention = retention_of(args, 3)
  local fields = slice(args, 8)
  local spec = {
    reply_streams = reply_streams, end_streams = '', effect = '', context = value_of(fields, 'context'), after = '',
    followed = false,
  }
  local command = { stream = stream }
  for _, name in ipairs(COMMAND_FIELDS) do
    command[name] = value_of(fields, name)
  end
  command.digest = digest_of(stream, command.event_type, command.payload)
  if command.timestamp == '' then
    command.timestamp = now_ms(call)
  end
  require_reply_streams(call, spec)
  local record = read_record(key)
  if record.status then
    local known = command_of(record).digest
    if known ~= command.digest and known ~= '' then
      return { 'conflict' }
    end
    if record.entry_id == entry_id then
      return { 'adopted' }
    end
    add_reply_streams(call, key, record, spec, retention)
    ack(call, stream, group, entry_id)
    return { 'done', record.status }
  end
  local memory = remembered(call, key)
  if memory then
    ack(call, stream, group, entry_id)
    return { 'done', memory.status }
  end
  if record.followed then
    spec.followed, spec.reply_streams = true, with_stage_log(key, reply_streams)
  end
  if record.cancel then
    local note = record.cancel
    record = new_record(command, spec)
    conclude(call, key, record, 'cancelled', '{}', cjson.decode(note), retention, group, entry_id)
    return { 'done', 'cancelled' }
  end
  redis.call('DEL', key)
  add_record(call, key, entry_id, command, command.payload, spec)
  return { 'adopted' }
end

-- follow: start a request's own stage log.
-- Race: the follower comes before the command; the key of the record remembers it.
-- KEYS record. ARGV ms that the log is kept, traceparent, tracestate, parent span id.
-- Returns {'ok'} | {'expired', status, time in s}.
local function follow(call, keys, args)
  local key, ttl_ms = keys[1], args[1]
  require_type(call, key .. ':stages', 'stream')
  local record = read_record(key)
  if record.status then
    if not record.followed then
      open_stage_log(call, key, record, slice(args, 2), ttl_ms)
    end
    return { 'ok' }
  end
  local memory = remembered(call, key)
  if memory then
    return answer_expired(memory)
  end
  redis.call('HSET', key, 'layout', int(LAYOUT), 'followed', '1')
  redis.call('PEXPIRE', key, ttl_ms)
  return { 'ok' }
end

-- cancel: end a request that has not begun; ask the handler of a running one to stop.
-- Race: the cancel overtakes its command; the key of the record remembers it, and emit or adopt
-- ends the request.
-- KEYS record. ARGV result_ms, remember_ms, traceparent, tracestate, parent span id.
-- Returns {'cancelled' | 'cancelling' | the status with which it had ended}.
local function cancel(call, keys, args)
  local key, trace = keys[1], slice(args, 3)
  local retention = { result_ms = tonumber(args[1]), remember_ms = tonumber(args[2]) }
  local prefix = split_key(key)
  local record = read_record(key)
  if not record.status then
    local memory = remembered(call, key)
    if memory then
      return { memory.status }
    end
    note_cancel(key, trace, retention.remember_ms)
    return { 'cancelled' }
  end
  if TERMINAL[record.status] then
    return { record.status }
  end
  if record.status == 'pending' then
    require_reply_streams(call, record)
    conclude(call, key, record, 'cancelled', '{}', trace, retention)
    return { 'cancelled' }
  end
  local wakeup_list = prefix .. 'listener:' .. record.consumer
  require_type(call, wakeup_list, 'list')
  record.cancel = cjson.encode(trace)
  write_state(key, record)
  wake(wakeup_list)
  return { 'cancelling' }
end

-- look: read a record; nothing changes.
-- KEYS record. Returns {'none'} | {'expired', status, time in s} | {'record', names and values...}.
local function look(call, keys)
  local key = keys[1]
  local record = read_record(key, true)
  if not record.status then
    local memory = remembered(call, key)
    return memory and answer_expired(memory) or { 'none' }
  end
  local command, trace = command_of(record), record.trace or { '', '', '' }
  local out = { 'record' }
  for name, value in pairs({
    status = record.status, epoch = record.epoch, entry_id = record.entry_id, consumer = record.consumer,
    lease_until = record.lease_until, seq = record.seq or 0, cancel = record.cancel, token = record.token,
    context = record.context or '', correlation_id = command.correlation_id, saga_id = command.saga_id,
    event_type = command.event_type, stream = command.stream or '', timestamp = record.at or command.timestamp,
    payload = record.payload or '', reply_streams = record.reply_streams, end_streams = record.end_streams,
    followed = record.followed and '1' or '', digest = command.digest, effect = record.effect or '',
    traceparent = trace[1], tracestate = trace[2], parent_span_id = trace[3],
  }) do
    out[#out + 1], out[#out + 2] = name, type(value) == 'number' and int(value) or value
  end
  return out
end

register('emit', batched(emit, 2))
register('adopt', adopt, WHEN_FULL)
register('follow', follow)
register('cancel', cancel, WHEN_FULL)
register('look', look, { 'no-writes', 'allow-oom' })
