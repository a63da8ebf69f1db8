-- Command streams: sweep, make_group, give_back, event, reject, announce, forward.

-- The largest number of deliveries that a consumer gives back when it stops.
local PENDING_LIMIT = 10000
-- The largest number of commands that one sweep requeues.
local REQUEUE_LIMIT = 100

-- How many of the oldest entries of a stream are beyond a number of entries or bytes.
local function surplus_of(stream, keep, keep_bytes)
  local length = redis.call('XLEN', stream)
  local bytes = redis.call('MEMORY', 'USAGE', stream) or 0
  local kept = math.min(keep, length * keep_bytes / math.max(bytes, 1))
  return length - math.floor(kept), kept
end

-- Delete ended commands beyond the last `keep`, or beyond this many bytes; never one that is
-- pending or undelivered.
local function trim(stream, keep, keep_bytes)
  local surplus, kept = surplus_of(stream, keep, keep_bytes)
  if surplus < kept / 10 then
    return
  end
  local floor = nil
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local oldest = redis.call('XPENDING', stream, group[2])[2] or group[8]
    local ms, seq = string.match(oldest, '^(%d+)-(%d+)$')
    ms, seq = tonumber(ms), tonumber(seq)
    if floor == nil or ms < floor[1] or (ms == floor[1] and seq < floor[2]) then
      floor = { ms, seq, oldest }
    end
  end
  if floor then
    redis.call('XTRIM', stream, 'MINID', '~', floor[3], 'LIMIT', int(surplus))
  end
end

-- Requeue commands whose entries are gone though they have not ended: the stream was deleted, or
-- trimmed past them. As long as the oldest open request has its entry, none is missing.
local function requeue(call, stream, limit)
  for _ = 1, limit do
    local open = redis.call('ZRANGE', stream .. ':open', 0, 0)[1]
    if not open then
      return
    end
    local is_readable, record = pcall(read_record, call, open)
    if not is_readable then
      return -- a newer release requeues its own
    end
    if not record.status or TERMINAL[record.status] then
      redis.call('ZREM', stream .. ':open', open)
    else
      if #redis.call('XRANGE', stream, record.entry_id, record.entry_id) > 0 then
        return
      end
      record.entry_id = redis.call('XADD', stream, '*', unpack(command_entry(call, open, record)))
      write_state(open, record)
      redis.call('ZADD', stream .. ':open', int(now_ms(call)), open)
    end
  end
end

-- sweep: take over entries that were not renewed for one lease, or were given back, at most `count`.
-- Race: two sweepers would take the same entries from each other; so one holds the group and stream
-- for a while, and continues where the one before stopped.
-- It also moves the requests on whose next attempt is due, and drops what is no longer kept: ended
-- commands, results, remembered ids.
-- KEYS sweeper, stream, the windows of remembered ids. ARGV consumer, group, lease_ms, how long the
-- entries were idle at least, count, how many ended commands to keep, how many bytes of them.
-- Returns {'busy', due} | {'ok', due, entries...}, each {entry_id, fields, how many times it was
-- delivered}; `due` is in how many ms the next request is due, '' if none waits.
local function sweep(call, keys, args)
  local sweeper, stream = keys[1], keys[2]
  local consumer, group, lease_ms, idle_ms, count, keep, keep_bytes = unpack(args, 1, 7)
  require_type(call, sweeper, 'hash')
  require_type(call, stream .. ':later', 'zset')
  require_type(call, stream .. ':limits', 'zset')
  require_type(call, stream .. ':deadlines', 'zset')
  call.prefix = string.sub(keys[3], 1, -#'remembered' - 1)
  local now, due = now_ms(call), move_due(call, stream)
  local held = redis.call('HMGET', sweeper, 'consumer', 'until', 'cursor')
  if held[1] and held[1] ~= consumer and tonumber(held[2]) > now then
    return { 'busy', due }
  end
  local claimed = redis.call('XAUTOCLAIM', stream, group, consumer, idle_ms, held[3] or '0-0', 'COUNT', count)
  redis.call('HSET', sweeper, 'consumer', consumer, 'until', int(now + 0.4 * tonumber(lease_ms)), 'cursor', claimed[1])
  redis.call('PEXPIRE', sweeper, 10 * tonumber(lease_ms))
  local out = { 'ok', due }
  for _, entry in ipairs(claimed[2]) do
    local pending = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)
    out[#out + 1] = { entry[1], entry[2], pending[1] and pending[1][4] or 1 }
  end
  -- A consumer is deleted only when nothing is pending for it: its pending entries would be lost.
  for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    if other[2] ~= consumer and other[4] == 0 and other[6] > 10 * tonumber(lease_ms) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, other[2])
    end
  end
  trim(stream, tonumber(keep), tonumber(keep_bytes))
  drop_windows(call, keys[3])
  drop_kept(stream .. ':kept', function()
    return false
  end)
  requeue(call, stream, REQUEUE_LIMIT)
  return out
end

-- pause: let no request of a stream begin for which a target stands: `*` for all, an event type, or
-- a key of a limit or of fairness, as `customer_id=7`. What runs goes on.
-- KEYS stream. ARGV target, why it is paused. Returns {'ok'}.
local function pause(call, keys, args)
  local paused = keys[1] .. ':paused'
  require_type(call, paused, 'hash')
  redis.call('HSET', paused, args[1], cjson.encode({ since = now_ms(call) / 1000, reason = args[2] }))
  return { 'ok' }
end

-- resume: let the requests of a target begin again, a hundred now and the others with the next sweeps.
-- KEYS stream. ARGV target. Returns {'ok'} | {'none'}: it was not paused.
local function resume(call, keys, args)
  local stream, name = keys[1], 'paused ' .. args[1]
  require_type(call, stream .. ':paused', 'hash')
  require_type(call, stream .. ':limits', 'zset')
  local was_paused = redis.call('HDEL', stream .. ':paused', args[1]) == 1
  open_limiter(call, stream, name)
  return { was_paused and 'ok' or 'none' }
end

-- make_group: create a stream and its consumer group, at the start of the stream.
-- Race: another listener has created it; then it stays.
-- KEYS stream. ARGV group. Returns {'ok'}.
local function make_group(call, keys, args)
  require_type(call, keys[1], 'stream')
  local created = redis.pcall('XGROUP', 'CREATE', keys[1], args[1], '0', 'MKSTREAM')
  if created.err and not string.find(created.err, 'BUSYGROUP') then
    error(created)
  end
  return { 'ok' }
end

-- give_back: let the next sweep take over what is pending for a consumer that stops, whether it
-- read it or its answer was lost; except what its threads still handle.
-- The next sweeper need not wait for this one.
-- Race: another consumer has taken an entry over meanwhile; then it is not pending for this one.
-- KEYS sweeper, stream. ARGV group, consumer, idle_ms, entry ids to keep... Returns {'ok'}.
local function give_back(call, keys, args)
  local sweeper, stream, group, consumer, idle_ms = keys[1], keys[2], args[1], args[2], args[3]
  local kept = slice(args, 4)
  local pending = redis.pcall('XPENDING', stream, group, '-', '+', PENDING_LIMIT, consumer)
  if pending.err then
    return { 'ok' } -- stream or group are gone, and the deliveries with them
  end
  require_type(call, sweeper, 'hash')
  if redis.call('HGET', sweeper, 'consumer') == consumer then
    redis.call('HSET', sweeper, 'until', '0')
  end
  for _, delivery in ipairs(pending) do
    if not contains(kept, delivery[1]) then
      redis.call('XCLAIM', stream, group, consumer, 0, delivery[1], 'IDLE', idle_ms, 'JUSTID')
    end
  end
  return { 'ok' }
end

-- event: add an entry to any stream.
-- Race: another process could end a request that is still running. So only its handler writes the
-- stages of a request that has a record, and only finish writes the terminal one.
-- KEYS stream, record. ARGV status, token, maxlen, ttl_ms, fields...
-- Returns {'ok', entry_id} | {'refused'}.
local function event(call, keys, args)
  local stream, key = keys[1], keys[2]
  local status, token = args[1], args[2]
  local maxlen, ttl_ms = args[3] ~= '' and args[3], args[4] ~= '' and args[4]
  require_type(call, stream, 'stream')
  if STAGE[status] then
    local record = read_record(call, key)
    if record.status and (TERMINAL[status] or not owns(record, token)) then
      return { 'refused' }
    end
    if not record.status and remembered(call, key) then
      return { 'refused' }
    end
  end
  local fields = slice(args, 5)
  fields[#fields + 1] = 'timestamp'
  fields[#fields + 1] = int(now_ms(call))
  return { 'ok', add_entry(stream, fields, maxlen, ttl_ms) }
end

-- Whether a request has a record or is remembered, and the record if this release can read it.
local function find_record(call, key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'string' then
    return remembered(call, key) ~= nil, {}
  end
  local is_readable, record = pcall(read_record, call, key)
  if not is_readable then
    return string.find(tostring(record.err or record), 'LAYOUT', 1, true) ~= nil, {}
  end
  return record.status ~= nil, record
end

-- reject: turn an entry that cannot be begun into a dead letter, together with its ack. If its
-- request is known and has not ended, it ends as failed; an unknown request gets a failed reply;
-- the record of another entry, or of a newer release, is left alone.
-- Race: another listener has rejected the entry already; only a pending entry is rejected.
-- KEYS stream, dead stream, record, reply stream (the record again: none). ARGV group, entry_id,
-- four of the retention,
-- n, n dead-letter fields and values, fields of the reply (none: no reply)...
-- Returns {'ok'} | {'done'}.
local function reject(call, keys, args)
  local stream, dead, key, reply_stream = unpack(keys, 1, 4)
  local group, entry_id, retention, count = args[1], args[2], retention_of(call, args, 3, true), tonumber(args[7])
  local letter, fields = slice(args, 8, 7 + count), slice(args, 8 + count)
  require_type(call, dead, 'stream')
  local pending = redis.call('XPENDING', stream, group, entry_id, entry_id, 1)
  if #pending == 0 then
    return { 'done' }
  end
  local is_known, record = find_record(call, key)
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_LETTERS, '*', unpack(letter))
  if record.entry_id == entry_id and not TERMINAL[record.status] then
    drop_broken_streams(record)
    local trace = { value_of(fields, 'traceparent'), value_of(fields, 'tracestate'), value_of(fields, 'parent_span_id') }
    conclude(call, key, record, 'failed', value_of(fields, 'payload'), trace, retention)
  elseif #fields > 0 and not is_known and reply_stream ~= key and takes_replies(reply_stream) then
    local last = #fields
    fields[last + 1], fields[last + 2] = 'epoch', '0'
    fields[last + 3], fields[last + 4] = 'timestamp', int(now_ms(call))
    redis.call('XADD', reply_stream, '*', unpack(fields))
    call.ttls[reply_stream] = retention.result_ms
  end
  redis.call('XACK', stream, group, entry_id)
  return { 'ok' }
end

-- announce: publish for ttl_ms which event types a listener handles.
-- Race: a listener that died cannot withdraw; its members expire by the server's clock.
-- KEYS a sorted set for each stream. ARGV ttl_ms (0: withdraw), then a member for each key.
-- A member is "event type \n consumer"; a key may occur several times. Returns {'ok', in how many ms
-- a schedule of these streams is due, '' if none is}.
local function announce(call, keys, args)
  local ttl_ms = tonumber(args[1])
  local now, due = now_ms(call), nil
  for i, key in ipairs(keys) do
    require_type(call, key, 'zset')
    redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
    if ttl_ms > 0 then
      redis.call('ZADD', key, int(now + ttl_ms), args[i + 1])
      redis.call('PEXPIRE', key, ttl_ms)
    else
      redis.call('ZREM', key, args[i + 1])
    end
    local index = string.gsub(key, 'listeners:', '', 1) .. ':schedules'
    local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2]
    if first and first ~= 'inf' then
      due = math.min(due or math.huge, math.max(0, first - now))
    end
  end
  return { 'ok', due and int(due) or '' }
end

-- forward: add a command to its stream again, for a live listener that can handle it. The old entry
-- is deleted in the same step, so that the command is always in the stream once.
-- Race: another listener has acked the entry already; then the command is not added again.
-- KEYS stream, announcements, record. ARGV group, entry_id, event_type, fields...
-- Returns {'forwarded', entry_id} | {'unhandled', now, event types that are handled...}.
local function forward(call, keys, args)
  local stream, key, group, entry_id, event_type = keys[1], keys[3], args[1], args[2], args[3]
  local types, is_handled = {}, false
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys[2], int(now_ms(call)), '+inf')) do
    local handled = lines(member)[1]
    is_handled = is_handled or handled == event_type
    if not contains(types, handled) then
      types[#types + 1] = handled
    end
  end
  if not is_handled then
    table.sort(types)
    return { 'unhandled', int(now_ms(call)), unpack(types) }
  end
  local record = read_record(call, key)
  if redis.call('XACK', stream, group, entry_id) == 0 then
    return { 'forwarded', entry_id }
  end
  local new_id = redis.call('XADD', stream, '*', unpack(slice(args, 4)))
  redis.call('XDEL', stream, entry_id)
  if record.entry_id == entry_id and not TERMINAL[record.status] then
    record.entry_id = new_id
    write_state(key, record)
  end
  return { 'forwarded', new_id }
end

register('sweep', sweep, WHEN_FULL)
register('pause', pause)
register('resume', resume, WHEN_FULL)
register('make_group', make_group, WHEN_FULL)
register('give_back', give_back, WHEN_FULL)
register('event', event)
register('reject', reject, WHEN_FULL)
register('announce', announce, WHEN_FULL)
register('forward', forward, WHEN_FULL)
