-- The stages of a request, the streams that get them, and its end.

-- Entries kept in a request's own stage log.
local STAGE_LOG_LENGTH = 1000

-- Write a stage to a stream. `trace` is traceparent, tracestate and parent span id of its writer,
-- `at` its time as text.
local function add_stage(call, stream, key, record, status, payload, trace, at, ttl_ms)
  local command = command_of(record)
  redis.call('XADD', stream, '*',
    'correlation_id', command.correlation_id, 'request_id', id_of(call, key),
    'saga_id', command.saga_id, 'event_type', command.event_type,
    'status', status, 'payload', payload, 'v', VERSION,
    'traceparent', trace[1], 'tracestate', trace[2], 'parent_span_id', trace[3],
    'epoch', record.epoch, 'timestamp', at)
  call.ttls[stream] = ttl_ms
end

-- Write the terminal reply of a request that has ended to a stream.
local function add_terminal(call, stream, key, record, ttl_ms)
  add_stage(call, stream, key, record, record.status, record.payload, record.trace, int(record.at), ttl_ms)
end

-- How long a reply stream lives after its last entry: one with replies of a saga as long as ids
-- are remembered, because steps may take long.
local function ttl_of(record, retention)
  return command_of(record).saga_id == '' and retention.result_ms or int(retention.remember_ms)
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

local function require_streams(call, streams)
  if streams ~= '' and not string.find(streams, '\n', 1, true) then
    require_type(call, streams, 'stream')
    return
  end
  for _, stream in ipairs(lines(streams)) do
    require_type(call, stream, 'stream')
  end
end

local function require_reply_streams(call, record)
  require_streams(call, record.reply_streams)
  require_streams(call, record.end_streams)
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
local function add_replies(call, key, record, retention, status, payload, trace, is_terminal)
  local replies, ends = record.reply_streams, is_terminal and record.end_streams or ''
  if replies == '' and ends == '' then
    return
  end
  local ttl_ms = ttl_of(record, retention)
  if replies == '' and not string.find(ends, '\n', 1, true) then
    add_stage(call, ends, key, record, status, payload, trace, call.now_text, ttl_ms)
    return
  end
  local streams = streams_of(record, is_terminal)
  if #streams > 1 then
    require_reply_streams(call, record)
  end
  for _, stream in ipairs(streams) do
    add_stage(call, stream, key, record, status, payload, trace, call.now_text, ttl_ms)
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

-- Whether a token is that of the claim that ended the request.
local function ended_by(record, token)
  return TERMINAL[record.status] and string.sub(token, 1, TOKEN_LENGTH) == string.sub(record.token, 1, TOKEN_LENGTH)
end

-- End a request; no other function does. Store the outcome, write the terminal reply, ack the
-- delivery if there is one. The record gets its TTL here, or, if the request belongs to a saga,
-- when the saga ends. While the handler of a superseded request may still run, its record stays
-- a hash.
local function conclude(call, key, record, status, payload, trace, retention, group, entry_id)
  local command, now = command_of(record), now_ms(call)
  add_replies(call, key, record, retention, status, payload, trace, true)
  local ended = pack_ended(record, status, payload, trace, now, marks_of(call, key, record, command))
  record.status, record.payload, record.trace, record.at = status, payload, trace, now
  local is_lone = command.saga_id == ''
  if record.waits ~= '' then
    leave_queue(command.stream, key, record)
  end
  if record.held_until > 0 then
    redis.call('HSET', key, 'state', pack_state(record), 'ended', ended)
    if is_lone then
      redis.call('PEXPIRE', key, retention.result_ms)
    end
  elseif is_lone then
    redis.call('SET', key, ended, 'PX', retention.result_ms)
  else
    redis.call('SET', key, ended)
  end
  if is_lone then
    remember(call, key, status, command.digest, retention)
    if retention.max_count or retention.max_bytes then
      keep(call, command.stream, key, #key + #ended, retention)
    end
  end
  if group then
    ack(call, command.stream, group, entry_id)
  end
  if record.due and record.due > 0 then
    remove_paged(call, command.stream .. ':later', record.due, key)
  end
  append(call.ended, command.stream, key)
  if record.held_until == 0 and record.permits ~= '' then
    leave_limiters(call, command.stream, key, record)
  end
end

-- Give the terminal reply of a request that has ended to streams that do not have it.
local function tell(call, key, record, wanted, retention)
  local told = record.told
  for _, stream in ipairs(streams_of(wanted, true)) do
    local mark = mark_of(call, key, record.command, stream)
    if not string.find(told, mark, 1, true) then
      add_terminal(call, stream, key, record, ttl_of(record, retention))
      told = told .. mark
    end
  end
  if told ~= record.told then
    local ended = pack_ended(record, record.status, record.payload, record.trace, record.at, told)
    redis.call('SET', key, ended, 'KEEPTTL')
  end
end

-- Add reply streams to a known request. One that is added after the end gets the terminal reply.
local function add_reply_streams(call, key, record, wanted, retention)
  if record.is_packed then
    tell(call, key, record, wanted, retention)
    return
  end
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
  record.reply_streams, record.end_streams = table.concat(every, '\n'), table.concat(terminal_only, '\n')
  write_state(key, record)
  if TERMINAL[record.status] then
    for _, stream in ipairs(late) do
      add_terminal(call, stream, key, record, ttl_of(record, retention))
    end
  end
end

-- The reply streams of a request that keeps its own stage log.
local function with_stage_log(key, reply_streams)
  return reply_streams .. (reply_streams == '' and '' or '\n') .. key .. ':stages'
end

-- Start a request's own stage log, with the stages that its record knows: the last start, the
-- last progress, and the end.
local function open_stage_log(call, key, record, trace, ttl_ms)
  local log = key .. ':stages'
  if TERMINAL[record.status] and redis.call('EXISTS', log) == 1 then
    return
  end
  if record.began > 0 then
    add_stage(call, log, key, record, 'start', '{}', trace, int(record.began), ttl_ms)
  end
  if TERMINAL[record.status] then
    add_terminal(call, log, key, record, ttl_ms)
    return
  end
  if record.seq > 0 then
    add_stage(call, log, key, record, 'progress', last_progress(key, record), trace, int(record.progressed), ttl_ms)
  end
  record.reply_streams, record.followed = with_stage_log(key, record.reply_streams), true
  write_state(key, record)
end
