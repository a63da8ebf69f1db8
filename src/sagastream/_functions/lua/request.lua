-- The begin of a request, and what its requesters ask for: emit, adopt, follow, cancel, purge, inspect.

-- Note a cancel that comes before its command.
local function note_cancel(key, trace, ttl_ms)
  redis.call('HSET', key, 'layout', LAYOUT_TEXT, 'cancel', cjson.encode(trace))
  redis.call('PEXPIRE', key, int(ttl_ms))
end

-- End a request that another one supersedes, in the function that emits the other one. Its handler
-- can no longer write; if it has not been emitted yet, it never begins. Returns whether a handler
-- may still run; `held_until` then says for how long.
-- Race: a compensation is emitted while the forward handler still runs; it begins after that
-- handler has confirmed its end, or its lease has lapsed.
local function supersede(call, key, trace, retention)
  local record = read_record(call, key)
  if not record.status then
    if not remembered(call, key) then
      note_cancel(key, trace, retention.remember_ms)
    end
    return false
  end
  if not TERMINAL[record.status] then
    local is_running = record.status == 'running'
    record.epoch = next_epoch(call, record.epoch)
    record.held_until = is_running and record.lease_until or 0
    conclude(call, key, record, 'cancelled', '{}', trace, retention)
    if is_running then
      wake(prefix_of(call, key) .. 'listener:' .. record.consumer)
    end
  end
  return record.held_until > 0
end

-- Supersede requests; returns the records for whose handlers the new request waits, one per line.
local function supersede_all(call, others, trace, retention)
  local after = {}
  for _, other in ipairs(others) do
    if supersede(call, other, trace, retention) then
      after[#after + 1] = other
    end
  end
  return table.concat(after, '\n')
end

local NO_RECORD, NO_OPTIONS = {}, {}

-- What an emit says beyond its entry, by name.
local function options_of(args, first, last)
  local options = {}
  for i = first, last, 2 do
    if args[i] == 'supersedes' then
      options.superseded = options.superseded or {}
      options.superseded[#options.superseded + 1] = args[i + 1]
    else
      options[args[i]] = args[i + 1]
    end
  end
  return options
end

-- emit: write a command's record and entry together.
-- Race: the answer is lost and the command is emitted again; its record exists, so the stream
-- gets it once. The same id with another payload is a conflict, and the id of a request whose
-- result is no longer kept is `expired`.
-- Shared: result_ms, remember_ms. Own: the fields of the entry from correlation_id to
-- parent_span_id; the keys of the reply streams, one per line; the keys of those that get only the
-- terminal stage; the digest of the command; then names and values: `deadline_ms` and `delay_ms`
-- from now, `not_before_ms`, `maxlen`, `ttl_ms`, `effect` that the handler must declare, `context` of other propagators,
-- `turn`: class, weight and group of its fair queue, one per line, `unique` the key of a window of
-- `unique_ms` in which `unique_keep`, the first or the last request, is kept; the last one waits for
-- `unique_wait_ms` at most,
-- `supersedes` a record (any number of times).
-- A command that is due later, or waits for its turn, has no entry until then: 0-0.
-- Returns {'new' | 'known' | 'conflict', entry_id, counter} | {'expired', status, time in s}. The
-- counter grows with every command, so that a client notices when older data are restored.
local function emit(call, key, stream, args, before, last)
  local correlation_id, request_id, saga_id, event_type, payload, reply_stream, v, traceparent, tracestate,
    parent_span_id, reply_streams, end_streams, digest = unpack(args, before + 1, before + 13)
  local now, retention, options = now_ms(call), retention_of(call, args, 1), NO_OPTIONS
  if last > before + 13 then
    options = options_of(args, before + 14, last)
  end
  if reply_streams ~= '' or not is_inbox(call, key, end_streams) then
    require_streams(call, reply_streams)
    require_streams(call, end_streams)
  end
  if options.superseded then
    require_type(call, stream, 'stream')
    for _, other in ipairs(options.superseded) do
      local superseded = read_record(call, other)
      if superseded.status then
        require_reply_streams(call, superseded)
      end
    end
  end
  local is_there = redis.call('EXISTS', key) == 1
  local record = is_there and read_record(call, key) or NO_RECORD
  if record.status then
    local known = command_of(record)
    if (known.digest ~= digest and known.digest ~= '') or (known.stream or stream) ~= stream then
      return { 'conflict', record.entry_id, '0' }
    end
    add_reply_streams(call, key, record, { reply_streams = reply_streams, end_streams = end_streams }, retention)
    return { 'known', record.entry_id, '0' }
  end
  local memory = remembered(call, key)
  if memory then
    if memory.digest ~= string.sub(digest, 1, SHORT_DIGEST) then
      return { 'conflict', '0-0', '0' }
    end
    return answer_expired(memory)
  end
  local unique_due, window_began
  if options.unique then
    local trace = { traceparent, tracestate, parent_span_id }
    require_type(call, stream .. ':unique:' .. options.unique, 'string')
    local kept
    kept, unique_due, window_began = unique_of(call, stream, options, trace, retention)
    if kept then
      return { 'known', read_record(call, kept).entry_id or '0-0', '0' }
    end
  end
  if record.followed then
    reply_streams = with_stage_log(key, reply_streams)
  end
  local deadline = options.deadline_ms and now + options.deadline_ms or ''
  local packed = cmsgpack.pack(digest, stream, correlation_id, saga_id, event_type, reply_stream, v, traceparent,
    tracestate, parent_span_id, deadline, now)
  if record.cancel then
    -- The cancel came first: the request ends before it begins, and nothing is sent.
    local trace = cjson.decode(record.cancel)
    conclude(call, key, new_record(unpack_command(packed), reply_streams, end_streams), 'cancelled', '{}', trace,
      retention)
    return { 'known', '0-0', '0' }
  end

  local after = ''
  if options.superseded then
    after = supersede_all(call, options.superseded, { traceparent, tracestate, parent_span_id }, retention)
  end
  local entry_id, due, turn = nil, 0, options.turn or ''
  if options.delay_ms or options.not_before_ms or unique_due then
    due = math.max(now + (options.delay_ms or 0), tonumber(options.not_before_ms or 0), unique_due or 0)
    due = due > now and math.min(due, deadline == '' and due or deadline) or 0 -- then it fails
  end
  if options.unique then
    open_window(call, stream, options, key, due, window_began)
  end
  if due > 0 then
    require_type(call, stream .. ':later', 'zset')
    entry_id = NO_ENTRY
  elseif turn ~= '' then
    require_type(call, stream, 'stream')
    entry_id = NO_ENTRY
  elseif deadline == '' and not options.maxlen and not options.ttl_ms then
    entry_id = redis.call('XADD', stream, '*', 'correlation_id', correlation_id, 'request_id', request_id,
      'saga_id', saga_id, 'event_type', event_type, 'payload', payload, 'reply_stream', reply_stream, 'v', v,
      'traceparent', traceparent, 'tracestate', tracestate, 'parent_span_id', parent_span_id,
      'timestamp', call.now_text)
  else
    local fields = command_fields(call, key, unpack_command(packed), payload)
    entry_id = add_entry(stream, fields, options.maxlen, options.ttl_ms)
    if type(entry_id) == 'table' then
      error(entry_id)
    end
  end
  if is_there then
    redis.call('DEL', key) -- the note, and its TTL: a live record has none
  end
  local effect, context, is_followed = options.effect or '', options.context or '', record.followed and true or false
  if entry_id ~= NO_ENTRY then
    add_record(call, key, stream, packed, payload, entry_id, reply_streams, end_streams, effect, context, after,
      is_followed)
  else
    local waiting = new_record(unpack_command(packed), reply_streams, end_streams)
    waiting.effect, waiting.context, waiting.after, waiting.followed = effect, context, after, is_followed
    waiting.due, waiting.turn, waiting.payload_sent = due, turn, payload
    if due > 0 then
      write_state(key, waiting)
      add_paged(call, stream .. ':later', due, key)
    else
      enter(call, stream, key, waiting)
      entry_id = read_record(call, key).entry_id
    end
  end
  local answer = { 'new', entry_id }
  call.emitted[#call.emitted + 1] = answer -- `flush` adds the counter
  return answer
end

-- adopt: write the record of an entry that was added by plain XADD.
-- Race: two entries of one request; the one that the record names is handled, the other is acked.
-- KEYS record, stream. ARGV group, entry_id, four of the retention, the keys of the reply
-- streams, one per line, the fields of the entry, with a request_id and a correlation_id...
-- Returns {'adopted'} | {'done', status} | {'conflict'}.
local function adopt(call, keys, args)
  local key, stream, group, entry_id, reply_streams = keys[1], keys[2], args[1], args[2], args[7]
  local now = now_ms(call)
  local retention = retention_of(call, args, 3, true)
  local fields = slice(args, 8)
  local command = { stream = stream }
  for _, name in ipairs(COMMAND_FIELDS) do
    command[name] = value_of(fields, name)
  end
  command.digest = digest_of(stream, command.event_type, command.payload)
  if command.timestamp == '' then
    command.timestamp = now
  end
  require_streams(call, reply_streams)
  local record = read_record(call, key)
  if record.status then
    local known = command_of(record).digest
    if known ~= command.digest and known ~= '' then
      return { 'conflict' }
    end
    if record.entry_id == entry_id then
      return { 'adopted' }
    end
    add_reply_streams(call, key, record, { reply_streams = reply_streams, end_streams = '' }, retention)
    ack(call, stream, group, entry_id)
    return { 'done', record.status }
  end
  local memory = remembered(call, key)
  if memory then
    ack(call, stream, group, entry_id)
    return { 'done', memory.status }
  end
  if record.followed then
    reply_streams = with_stage_log(key, reply_streams)
  end
  if record.cancel then
    local trace = cjson.decode(record.cancel)
    local ended = new_record(command, reply_streams, '')
    conclude(call, key, ended, 'cancelled', '{}', trace, retention, group, entry_id)
    return { 'done', 'cancelled' }
  end
  redis.call('DEL', key)
  add_record(call, key, stream, pack_command(command), command.payload, entry_id, reply_streams, '', '',
    value_of(fields, 'context'), '', record.followed and true or false)
  return { 'adopted' }
end

-- follow: start a request's own stage log.
-- Race: the follower comes before the command; the key of the record remembers it.
-- KEYS record. ARGV ms that the log is kept, traceparent, tracestate, parent span id.
-- Returns {'ok'} | {'expired', status, time in s}.
local function follow(call, keys, args)
  local key, ttl_ms = keys[1], args[1]
  require_type(call, key .. ':stages', 'stream')
  local record = read_record(call, key)
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
  redis.call('HSET', key, 'layout', LAYOUT_TEXT, 'followed', '1')
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
  local retention = retention_of(call, args, 1)
  local record = read_record(call, key)
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
  local wakeup_list = prefix_of(call, key) .. 'listener:' .. record.consumer
  require_type(call, wakeup_list, 'list')
  record.cancel = cjson.encode(trace)
  write_state(key, record)
  wake(wakeup_list)
  return { 'cancelling' }
end

-- inspect: read a record; nothing changes.
-- KEYS record. Returns {'none'} | {'expired', status, time in s} | {'record', names and values...}.
local function inspect(call, keys)
  local key = keys[1]
  local record = read_record(call, key, true)
  if not record.status then
    local memory = remembered(call, key)
    return memory and answer_expired(memory) or { 'none' }
  end
  local command, trace = command_of(record), record.trace or { '', '', '' }
  local out = { 'record' }
  for name, value in pairs({
    status = record.status, epoch = record.epoch, attempts = record.attempts, failures = record.failures or 0,
    due = record.due or 0, waits = record.waits or '', turn = record.turn or '', entry_id = record.entry_id, consumer = record.consumer,
    lease_until = record.lease_until, seq = record.seq or 0, cancel = record.cancel, token = record.token,
    context = record.context or '', correlation_id = command.correlation_id, saga_id = command.saga_id,
    event_type = command.event_type, stream = command.stream or '', timestamp = record.at or command.timestamp,
    payload = record.payload or '', reply_streams = record.reply_streams, end_streams = record.end_streams,
    followed = record.followed and '1' or '', effect = record.effect or '',
    traceparent = trace[1], tracestate = trace[2], parent_span_id = trace[3],
  }) do
    out[#out + 1], out[#out + 2] = name, type(value) == 'number' and int(value) or value
  end
  return out
end

-- purge: drop the results of ended requests; their ids stay remembered.
-- KEYS records. ARGV how long ago in ms they ended at least, '1' to drop nothing.
-- Returns {how many, how many bytes their payloads have}.
local function purge(call, keys, args)
  local count, bytes = 0, 0
  for _, key in ipairs(keys) do
    local is_readable, record = pcall(read_record, call, key)
    if is_readable and record.is_packed and record.command.saga_id == '' and record.at <= now_ms(call) - args[1] then
      count, bytes = count + 1, bytes + #record.payload
      if args[2] ~= '1' then
        redis.call('UNLINK', key)
      end
    end
  end
  return { count, bytes }
end

register('emit', batched(emit, 2))
register('adopt', adopt, WHEN_FULL)
register('follow', follow)
register('cancel', cancel, WHEN_FULL)
register('purge', purge, WHEN_FULL)
register('inspect', inspect, { 'no-writes', 'allow-oom' })
