-- A request's record, its replies, and its end.

-- The fields of a command's entry, in their order.
local COMMAND_FIELDS = { 'correlation_id', 'request_id', 'saga_id', 'event_type', 'payload', 'reply_stream',
  'v', 'traceparent', 'tracestate', 'parent_span_id', 'deadline', 'timestamp' }

local function digest_of(event_type, payload)
  return redis.sha1hex(event_type .. '\n' .. payload)
end

-- The entry of a request's command, from its record.
local function command_entry(record)
  local fields = {}
  for _, name in ipairs(COMMAND_FIELDS) do
    if record[name] then
      fields[#fields + 1], fields[#fields + 2] = name, record[name]
    end
  end
  return fields
end

-- The entry of a stage. `trace` is traceparent, tracestate and parent span id of its writer.
local function stage_entry(record, status, payload, trace, at)
  return {
    'correlation_id', record.correlation_id, 'request_id', record.request_id,
    'saga_id', record.saga_id or '', 'event_type', record.event_type,
    'status', status, 'payload', payload, 'v', VERSION,
    'traceparent', trace[1], 'tracestate', trace[2], 'parent_span_id', trace[3],
    'epoch', record.epoch, 'timestamp', at,
  }
end

-- The entry of the terminal reply of a request that has ended.
local function terminal_entry(record)
  local trace = { record.traceparent or '', record.tracestate or '', record.parent_span_id or '' }
  return stage_entry(record, record.status, record.payload, trace, record.timestamp)
end

local function add_reply(call, stream, ttl_ms, fields)
  redis.call('XADD', stream, '*', unpack(fields))
  call.ttls[stream] = ttl_ms
end

-- The streams that get a stage: `reply_streams` get every one, `end_streams` only the terminal one.
local function streams_of(record, is_terminal)
  local streams = lines(record.reply_streams)
  if is_terminal then
    for _, stream in ipairs(lines(record.end_streams)) do
      streams[#streams + 1] = stream
    end
  end
  return streams
end

local function require_reply_streams(call, record)
  for _, stream in ipairs(streams_of(record, true)) do
    require_type(call, stream, 'stream')
  end
end

local function takes_replies(stream)
  local actual = redis.call('TYPE', stream).ok
  return actual == 'none' or actual == 'stream'
end

-- Forget the reply streams that are keys of another type: a request that ends as a dead letter
-- replies where it can.
local function drop_broken_streams(record)
  for _, name in ipairs({ 'reply_streams', 'end_streams' }) do
    local kept = {}
    for _, stream in ipairs(lines(record[name])) do
      if takes_replies(stream) then
        kept[#kept + 1] = stream
      end
    end
    record[name] = table.concat(kept, '\n')
  end
end

-- Write a stage to each of the request's streams. Call this before any other write: the XADD to a
-- single stream of the wrong type fails and refuses the call; several streams are checked first.
local function add_replies(call, record, ttl_ms, fields, is_terminal)
  local streams = streams_of(record, is_terminal)
  if #streams > 1 then
    require_reply_streams(call, record)
  end
  for _, stream in ipairs(streams) do
    add_reply(call, stream, ttl_ms, fields)
    if string.sub(stream, -7) == ':stages' then
      -- The request's own log is kept with its record, and is bounded.
      redis.call('XTRIM', stream, 'MAXLEN', '~', STAGE_LOG_LENGTH)
    end
  end
end

-- Whether a token is that of the request's current claim: the check that fences every write.
local function owns(record, token)
  return record.token == token and not TERMINAL[record.status]
end

-- The fields of a record that `conclude` needs.
local CONCLUSION_FIELDS = { 'layout', 'token', 'status', 'epoch', 'reply_streams', 'end_streams', 'held_until',
  'traceparent', 'correlation_id', 'request_id', 'saga_id', 'event_type' }

-- End a request; no other function does. Store the outcome, write the terminal reply, ack the
-- delivery if there is one. The record gets its TTL here, or, if the request belongs to a saga,
-- when the saga ends. A handler that acks ends its span itself, so the record forgets the span.
local function conclude(call, key, record, stream, status, payload, trace, reply_ttl_ms, retention_ms, group, entry_id)
  local now = int(now_ms(call))
  add_replies(call, record, reply_ttl_ms, stage_entry(record, status, payload, trace, now), true)
  redis.call('HSET', key, 'status', status, 'payload', payload, 'timestamp', now)
  if trace[1] ~= '' or record.traceparent then
    redis.call('HSET', key, 'traceparent', trace[1], 'tracestate', trace[2], 'parent_span_id', trace[3])
  end
  if group then
    if trace[1] ~= '' then
      redis.call('HDEL', key, 'span')
    end
    ack(call, stream, group, entry_id)
  end
  append(call.ended, stream .. ':open', key)
  if (record.saga_id or '') == '' then
    redis.call('PEXPIRE', key, retention_ms)
  end
end

-- Add reply streams to a known request. One that is added after the end gets the terminal reply.
local function add_reply_streams(call, key, record, wanted, ttl_ms)
  local every, terminal, late = lines(record.reply_streams), lines(record.end_streams), {}
  for _, stream in ipairs(lines(wanted.reply_streams)) do
    if not contains(every, stream) then
      every[#every + 1], late[#late + 1] = stream, stream
    end
  end
  for _, stream in ipairs(lines(wanted.end_streams)) do
    if not contains(every, stream) and not contains(terminal, stream) then
      terminal[#terminal + 1], late[#late + 1] = stream, stream
    end
  end
  if #late == 0 then
    return
  end
  local terminal_only = {}
  for _, stream in ipairs(terminal) do
    if not contains(every, stream) then
      terminal_only[#terminal_only + 1] = stream
    end
  end
  redis.call('HSET', key, 'reply_streams', table.concat(every, '\n'), 'end_streams', table.concat(terminal_only, '\n'))
  if TERMINAL[record.status] then
    for _, stream in ipairs(late) do
      add_reply(call, stream, ttl_ms, terminal_entry(record))
    end
  end
end

-- Write a new record. `spec` has digest, reply_streams, end_streams, effect, context, after and
-- followed. The context is not in the entry: earlier releases refuse entries with it.
-- A stream's open requests are in a sorted set next to it, the oldest first, so that commands
-- whose entries were lost can be requeued.
local function add_record(call, key, stream, entry_id, fields, spec)
  local record = {
    'layout', int(LAYOUT),
    'stream', stream,
    'entry_id', entry_id,
    'digest', spec.digest,
    'status', 'pending',
    'epoch', '0',
    'reply_streams', spec.reply_streams,
  }
  local count = #record
  for _, name in ipairs({ 'end_streams', 'effect', 'context', 'after' }) do
    if spec[name] and spec[name] ~= '' then
      record[count + 1], record[count + 2] = name, spec[name]
      count = count + 2
    end
  end
  for i = 1, #fields, 2 do
    if fields[i + 1] ~= '' then
      record[count + 1], record[count + 2] = fields[i], fields[i + 1]
      count = count + 2
    end
  end
  redis.call('HSET', key, unpack(record))
  if spec.followed then
    -- The key had a TTL while it noted only that it is followed; a live record has none.
    redis.call('PERSIST', key)
  end
  append(call.opened, stream .. ':open', int(now_ms(call)), key)
end

-- The reply streams of a request that keeps its own stage log.
local function with_stage_log(key, reply_streams)
  return reply_streams .. (reply_streams == '' and '' or '\n') .. key .. ':stages'
end

-- Start a request's own stage log, with the stages that its record knows. A request has one
-- only when it is followed or reports progress.
local function open_stage_log(call, key, record, trace, ttl_ms)
  local log = key .. ':stages'
  record.reply_streams, record.followed = with_stage_log(key, record.reply_streams), '1'
  if record.began then
    add_reply(call, log, ttl_ms, stage_entry(record, 'start', '{}', trace, record.began))
  end
  if TERMINAL[record.status] then
    add_reply(call, log, ttl_ms, terminal_entry(record))
  end
  redis.call('HSET', key, 'followed', '1', 'reply_streams', record.reply_streams)
end
