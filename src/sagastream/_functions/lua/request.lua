-- The begin of a request, and what its requesters ask for: emit, adopt, follow, cancel.

-- End a request that another one supersedes, in the function that emits the other one. Its handler
-- can no longer write; if it has not been emitted yet, it never begins. Returns whether a handler
-- may still run; `held_until` then says for how long.
-- Race: a compensation is emitted while the forward handler still runs; it begins after that
-- handler has confirmed its end, or its lease has lapsed.
local function supersede(call, key, trace, wakeup_prefix, reply_ttl_ms)
  local record = read_record(key)
  if not record.digest then
    redis.call('HSET', key, 'cancel', cjson.encode(trace))
    redis.call('PEXPIRE', key, reply_ttl_ms)
    return false
  end
  if not TERMINAL[record.status] then
    local consumer, held_until = record.status == 'running' and record.consumer, record.lease_until
    record.epoch = int(tonumber(record.epoch) + 1)
    redis.call('HSET', key, 'epoch', record.epoch)
    conclude(call, key, record, record.stream, 'cancelled', '{}', trace, reply_ttl_ms, reply_ttl_ms)
    if consumer then
      redis.call('HSET', key, 'held_until', held_until)
      wake(wakeup_prefix .. consumer)
    end
  end
  return redis.call('HEXISTS', key, 'held_until') == 1
end

-- emit: write a command's record and entry together.
-- Race: the answer is lost and the command is emitted again; its record exists, so the stream
-- gets it once. The same id with another payload is a conflict.
-- Shared: reply_ttl_ms, prefix of wake-up lists, instance. Own: the fields of the entry from
-- correlation_id to parent_span_id; the keys of the reply streams, one per line; the keys of those
-- that get only the terminal stage; then names and values: `deadline_ms` from now, `maxlen`,
-- `ttl_ms`, `effect` that the handler must declare, `context` of other propagators, `supersedes` a
-- record (any number of times).
-- Returns {'new' | 'known' | 'conflict', entry_id, counter}. The counter grows with every
-- command, so that a client notices when older data are restored.
local function emit(call, key, stream, shared, own)
  local reply_ttl_ms, wakeup_prefix, instance = shared[1], shared[2], shared[3]
  local trace, options, superseded = { own[8], own[9], own[10] }, {}, {}
  for i = 13, #own, 2 do
    if own[i] == 'supersedes' then
      superseded[#superseded + 1] = own[i + 1]
    else
      options[own[i]] = own[i + 1]
    end
  end
  local spec = {
    digest = digest_of(own[4], own[5]), reply_streams = own[11], end_streams = own[12],
    effect = options.effect, context = options.context,
  }
  require_reply_streams(call, spec)
  if #superseded > 0 then
    require_type(call, stream, 'stream')
  end
  for _, other in ipairs(superseded) do
    require_type(call, other, 'hash')
    require_reply_streams(call, read_record(other))
  end
  local counter = tonumber(redis.call('HGET', instance, 'emitted') or '0') + (call.emitted[instance] or 0) + 1

  local record = read_fields(key, { 'layout', 'digest', 'cancel', 'followed' })
  local now = now_ms(call)
  local fields = {}
  for i = 1, 10 do
    fields[2 * i - 1], fields[2 * i] = COMMAND_FIELDS[i], own[i]
  end
  if options.deadline_ms then
    fields[21], fields[22] = 'deadline', int(now + tonumber(options.deadline_ms))
  end
  fields[#fields + 1] = 'timestamp'
  fields[#fields + 1] = int(now)
  if record.followed and not record.digest then
    spec.followed, spec.reply_streams = true, with_stage_log(key, spec.reply_streams)
  end
  if not record.digest and record.cancel then
    -- The cancel came first: the request ends before it begins, and nothing is sent.
    add_record(call, key, stream, '0-0', fields, spec)
    local cancel_trace = cjson.decode(record.cancel)
    record = read_record(key)
    conclude(call, key, record, stream, 'cancelled', '{}', cancel_trace, reply_ttl_ms, reply_ttl_ms)
  end
  if record.digest then
    record = read_record(key)
    if record.digest ~= spec.digest or record.stream ~= stream then
      return { 'conflict', record.entry_id, '0' }
    end
    add_reply_streams(call, key, record, spec, reply_ttl_ms)
    return { 'known', record.entry_id, '0' }
  end

  local after = {}
  for _, other in ipairs(superseded) do
    if supersede(call, other, trace, wakeup_prefix, reply_ttl_ms) then
      after[#after + 1] = other
    end
  end
  spec.after = table.concat(after, '\n')
  local entry_id = add_entry(stream, fields, options.maxlen, options.ttl_ms)
  if type(entry_id) == 'table' then
    error(entry_id)
  end
  call.emitted[instance] = (call.emitted[instance] or 0) + 1
  add_record(call, key, stream, entry_id, fields, spec)
  return { 'new', entry_id, int(counter) }
end

-- adopt: write the record of an entry that was added by plain XADD.
-- Race: two entries of one request; the one that the record names is handled, the other is acked.
-- KEYS record, stream. ARGV group, entry_id, reply_ttl_ms, retention_ms, the keys of the reply
-- streams, one per line, the fields of the entry, with a request_id and a correlation_id...
-- Returns {'adopted'} | {'done', status} | {'conflict'}.
local function adopt(call, keys, args)
  local key, stream = keys[1], keys[2]
  local group, entry_id, reply_ttl_ms, retention_ms, reply_streams = unpack(args, 1, 5)
  local fields = slice(args, 6)
  local spec = {
    digest = digest_of(value_of(fields, 'event_type'), value_of(fields, 'payload')),
    reply_streams = reply_streams,
  }
  require_reply_streams(call, spec)
  local record = read_record(key)
  if record.digest then
    if record.digest ~= spec.digest then
      return { 'conflict' }
    end
    if record.entry_id == entry_id then
      return { 'adopted' }
    end
    add_reply_streams(call, key, record, spec, reply_ttl_ms)
    ack(call, stream, group, entry_id)
    return { 'done', record.status }
  end
  if record.followed then
    spec.followed, spec.reply_streams = true, with_stage_log(key, reply_streams)
  end
  if value_of(fields, 'timestamp') == '' then
    fields[#fields + 1], fields[#fields + 2] = 'timestamp', int(now_ms(call))
  end
  add_record(call, key, stream, entry_id, fields, spec)
  if record.cancel then
    local cancel_trace = cjson.decode(record.cancel)
    conclude(call, key, read_record(key), stream, 'cancelled', '{}', cancel_trace, reply_ttl_ms, retention_ms, group, entry_id)
    return { 'done', 'cancelled' }
  end
  return { 'adopted' }
end

-- follow: start a request's own stage log.
-- Race: the follower comes before the command; the key of the record remembers it.
-- KEYS record. ARGV reply_ttl_ms, traceparent, tracestate, parent span id. Returns {'ok'}.
local function follow(call, keys, args)
  local key, reply_ttl_ms = keys[1], args[1]
  require_type(call, key, 'hash')
  require_type(call, key .. ':stages', 'stream')
  local record = read_record(key)
  if not record.digest then
    redis.call('HSET', key, 'followed', '1')
    redis.call('PEXPIRE', key, reply_ttl_ms)
  elseif not record.followed then
    open_stage_log(call, key, record, slice(args, 2), reply_ttl_ms)
  end
  return { 'ok' }
end

-- cancel: end a request that has not begun; ask the handler of a running one to stop.
-- Race: the cancel overtakes its command; the key of the record remembers it, and emit or adopt
-- ends the request.
-- KEYS record. ARGV reply_ttl_ms, retention_ms, prefix of wake-up lists, traceparent, tracestate,
-- parent span id. Returns {'cancelled' | 'cancelling' | the status with which it had ended}.
local function cancel(call, keys, args)
  local key, reply_ttl_ms, retention_ms, trace = keys[1], args[1], args[2], slice(args, 4)
  require_type(call, key, 'hash')
  local record = read_record(key)
  require_reply_streams(call, record)
  local wakeup_list = args[3] .. (record.consumer or '')
  require_type(call, wakeup_list, 'list')
  if not record.digest then
    redis.call('HSET', key, 'cancel', cjson.encode(trace))
    redis.call('PEXPIRE', key, retention_ms)
    return { 'cancelled' }
  end
  if TERMINAL[record.status] then
    return { record.status }
  end
  if record.status == 'pending' then
    conclude(call, key, record, record.stream, 'cancelled', '{}', trace, reply_ttl_ms, retention_ms)
    return { 'cancelled' }
  end
  redis.call('HSET', key, 'cancel', cjson.encode(trace))
  wake(wakeup_list)
  return { 'cancelling' }
end

register('emit', batched(emit, 3))
register('adopt', adopt, WHEN_FULL)
register('follow', follow)
register('cancel', cancel, WHEN_FULL)
