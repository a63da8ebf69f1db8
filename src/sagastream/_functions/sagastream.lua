#!lua name=@LIBRARY@

-- The transitions of a request, each one function, so that each is done whole or
-- not at all. A request's record is a hash; streams only carry what it says. Its payload,
-- trace and timestamp are the command's until it ends, and the terminal reply's from then on.
-- Every transition checks all that it needs before its first write: a refusal
-- changes nothing. Times are the server's, in milliseconds.

local TERMINAL = { completed = true, failed = true, cancelled = true }
local STAGE = { start = true, progress = true, completed = true, failed = true, cancelled = true }
-- The fields of a command's entry, in their order.
local OF_COMMAND = { 'correlation_id', 'request_id', 'saga_id', 'event_type', 'payload', 'reply_stream',
  'v', 'traceparent', 'tracestate', 'parent_span_id', 'deadline', 'timestamp' }
local VERSION = '@SCHEMA@'

local STAGES_KEPT = 1000
local REQUEUE_LIMIT = 100

-- What holds for one call only: its time, the types it has looked at, and what its requests
-- have in common, which is written once, at its end.
local clock, typed, expiring, opened, ended, acked, counted

local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end

local function int(number)
  return string.format('%d', number)
end

local function append(lists, key, ...)
  local list = lists[key]
  if not list then
    lists[key] = { ... }
    return
  end
  for i = 1, select('#', ...) do
    list[#list + 1] = (select(i, ...))
  end
end

local function settle()
  for stream, ttl_ms in pairs(expiring) do
    -- A stream that expired and is made again has no TTL, so every write sets it.
    redis.call('PEXPIRE', stream, ttl_ms)
  end
  for key, members in pairs(opened) do
    redis.call('ZADD', key, unpack(members))
  end
  for key, members in pairs(ended) do
    redis.call('ZREM', key, unpack(members))
  end
  for stream, group_and_ids in pairs(acked) do
    redis.pcall('XACK', stream, unpack(group_and_ids))
  end
  for instance, count in pairs(counted) do
    redis.call('HINCRBY', instance, 'emitted', count)
  end
end

local function ack(stream, group, entry_id)
  if acked[stream] then
    append(acked, stream, entry_id)
  else
    acked[stream] = { group, entry_id }
  end
end

local function require_type(key, wanted)
  local found = typed[key]
  if not found then
    found = redis.call('TYPE', key).ok
    typed[key] = found
  end
  if found ~= 'none' and found ~= wanted then
    error({ err = 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', expected a ' .. wanted })
  end
end

-- So many values fit on the interpreter's stack with room to spare.
local MOST_ON_STACK = 4000

local function slice(list, first, last)
  last = last or #list
  if last - first < MOST_ON_STACK then
    return { unpack(list, first, last) }
  end
  local out = {}
  for i = first, last do
    out[#out + 1] = list[i]
  end
  return out
end

local function lines(text)
  if text and text ~= '' and not string.find(text, '\n', 1, true) then
    return { text }
  end
  local out = {}
  for line in string.gmatch(text or '', '[^\n]+') do
    out[#out + 1] = line
  end
  return out
end

local function contains(list, wanted)
  for _, value in ipairs(list) do
    if value == wanted then
      return true
    end
  end
  return false
end

-- Some fields of a hash; what is not there is nil.
local function fields_of(key, names)
  local found = redis.call('HMGET', key, unpack(names))
  local record = {}
  for i = 1, #names do
    record[names[i]] = found[i] or nil
  end
  return record
end

local function record_of(key)
  local flat = redis.call('HGETALL', key)
  local record = {}
  for i = 1, #flat, 2 do
    record[flat[i]] = flat[i + 1]
  end
  return record
end

local function digest_of(event_type, payload)
  return redis.sha1hex(event_type .. '\n' .. payload)
end

-- The new entry's id, or what was wrong as a table.
local function add_entry(stream, fields, maxlen, ttl_ms)
  local entry_id
  if maxlen then
    entry_id = redis.pcall('XADD', stream, 'MAXLEN', '~', maxlen, '*', unpack(fields))
  else
    entry_id = redis.pcall('XADD', stream, '*', unpack(fields))
  end
  if ttl_ms and type(entry_id) == 'string' then
    redis.call('PEXPIRE', stream, ttl_ms)
  end
  return entry_id
end

-- The entry of a request's command, as its record has it.
local function command_of(record)
  local fields = {}
  for _, name in ipairs(OF_COMMAND) do
    if record[name] then
      fields[#fields + 1], fields[#fields + 2] = name, record[name]
    end
  end
  return fields
end

-- The entry of a stage. `trace` is traceparent, tracestate and parent span id of who tells it.
local function stage_of(record, status, payload, trace, at)
  return {
    'correlation_id', record.correlation_id, 'request_id', record.request_id,
    'saga_id', record.saga_id or '', 'event_type', record.event_type,
    'status', status, 'payload', payload, 'v', VERSION,
    'traceparent', trace[1], 'tracestate', trace[2], 'parent_span_id', trace[3],
    'epoch', record.epoch, 'timestamp', at,
  }
end

-- The terminal reply of a request that has ended.
local function end_of(record)
  local trace = { record.traceparent or '', record.tracestate or '', record.parent_span_id or '' }
  return stage_of(record, record.status, record.payload, trace, record.timestamp)
end

local function add_reply(stream, ttl_ms, fields)
  redis.call('XADD', stream, '*', unpack(fields))
  expiring[stream] = ttl_ms
end

-- Where a stage is told: `reply_streams` get every one, `end_streams` the terminal one alone.
local function streams_of(record, is_end)
  local streams = lines(record.reply_streams)
  if is_end then
    for _, stream in ipairs(lines(record.end_streams)) do
      streams[#streams + 1] = stream
    end
  end
  return streams
end

local function require_reply_streams(record)
  for _, stream in ipairs(streams_of(record, true)) do
    require_type(stream, 'stream')
  end
end

-- Tells a stage wherever the request is followed. Whoever calls this does so before any
-- other write: one stream of the wrong type refuses it all, several are looked at first.
local function add_replies(record, ttl_ms, fields, is_end)
  local streams = streams_of(record, is_end)
  if #streams > 1 then
    require_reply_streams(record)
  end
  for _, stream in ipairs(streams) do
    add_reply(stream, ttl_ms, fields)
    if string.sub(stream, -7) == ':stages' then
      -- The request's own log is kept with its record, and is not for ever.
      redis.call('XTRIM', stream, 'MAXLEN', '~', STAGES_KEPT)
    end
  end
end

local function owns(record, token)
  return record.token == token and not TERMINAL[record.status]
end

local function value_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return fields[i + 1]
    end
  end
  return ''
end

-- What of a record `conclude` needs.
local OF_CONCLUSION = { 'token', 'status', 'epoch', 'reply_streams', 'end_streams', 'held_until',
  'traceparent', 'correlation_id', 'request_id', 'saga_id', 'event_type' }

-- The one place where a request ends: outcome, terminal reply, ack by the handler that it was
-- delivered to, which tells of its span itself, and from here on a lone request's record
-- expires; a saga's does when its saga ends.
local function conclude(key, record, stream, status, payload, trace, reply_ttl_ms, retention_ms, group, entry_id)
  local now = int(now_ms())
  add_replies(record, reply_ttl_ms, stage_of(record, status, payload, trace, now), true)
  redis.call('HSET', key, 'status', status, 'payload', payload, 'timestamp', now)
  if trace[1] ~= '' or record.traceparent then
    redis.call('HSET', key, 'traceparent', trace[1], 'tracestate', trace[2], 'parent_span_id', trace[3])
  end
  if group then
    if trace[1] ~= '' then
      redis.call('HDEL', key, 'span')
    end
    ack(stream, group, entry_id)
  end
  append(ended, stream .. ':open', key)
  if (record.saga_id or '') == '' then
    redis.call('PEXPIRE', key, retention_ms)
  end
end

-- Adds reply streams to a known request, and gives a late one the reply that is there.
local function join_request(key, record, about, ttl_ms)
  local told, ends, late = lines(record.reply_streams), lines(record.end_streams), {}
  for _, stream in ipairs(lines(about.reply_streams)) do
    if not contains(told, stream) then
      told[#told + 1], late[#late + 1] = stream, stream
    end
  end
  for _, stream in ipairs(lines(about.end_streams)) do
    if not contains(told, stream) and not contains(ends, stream) then
      ends[#ends + 1], late[#late + 1] = stream, stream
    end
  end
  if #late == 0 then
    return
  end
  local only_ends = {}
  for _, stream in ipairs(ends) do
    if not contains(told, stream) then
      only_ends[#only_ends + 1] = stream
    end
  end
  redis.call('HSET', key, 'reply_streams', table.concat(told, '\n'), 'end_streams', table.concat(only_ends, '\n'))
  if TERMINAL[record.status] then
    for _, stream in ipairs(late) do
      add_reply(stream, ttl_ms, end_of(record))
    end
  end
end

-- A stream's open requests stand in a sorted set beside it, oldest first, so that commands
-- whose stream was lost can be put back.
local function new_record(key, stream, entry_id, fields, about)
  local record = {
    'stream', stream,
    'entry_id', entry_id,
    'digest', about.digest,
    'status', 'pending',
    'epoch', '0',
    'reply_streams', about.reply_streams,
  }
  local count = #record
  for _, name in ipairs({ 'end_streams', 'effect', 'after' }) do
    if about[name] and about[name] ~= '' then
      record[count + 1], record[count + 2] = name, about[name]
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
  if about.followed then
    -- What had been kept for whoever follows only is now a record.
    redis.call('PERSIST', key)
  end
  append(opened, stream .. ':open', int(now_ms()), key)
end

-- The reply streams of a request that is followed before it has come: its own log is one.
local function with_log(key, reply_streams)
  return reply_streams .. (reply_streams == '' and '' or '\n') .. key .. ':stages'
end

-- A request keeps a log of its own stages only when somebody follows it or it tells of progress:
-- from here on, beginning with the stages that the record knows.
local function open_log(key, record, trace, ttl_ms)
  local log = key .. ':stages'
  record.reply_streams, record.followed = with_log(key, record.reply_streams), '1'
  if record.began then
    add_reply(log, ttl_ms, stage_of(record, 'start', '{}', trace, record.began))
  end
  if TERMINAL[record.status] then
    add_reply(log, ttl_ms, end_of(record))
  end
  redis.call('HSET', key, 'followed', '1', 'reply_streams', record.reply_streams)
end

-- Ends a request that another one takes the place of, in one step with that one's coming:
-- whoever runs it can write no more, and one that has not come yet never begins. Returns
-- whether a handler may still be at it; `held_until` then tells for how long.
local function close(key, trace, wakeup_prefix, reply_ttl_ms)
  local record = record_of(key)
  if not record.digest then
    redis.call('HSET', key, 'cancel', cjson.encode(trace))
    redis.call('PEXPIRE', key, reply_ttl_ms)
    return false
  end
  if not TERMINAL[record.status] then
    local owner, held_until = record.status == 'running' and record.owner, record.lease_until
    record.epoch = int(tonumber(record.epoch) + 1)
    redis.call('HSET', key, 'epoch', record.epoch)
    conclude(key, record, record.stream, 'cancelled', '{}', trace, reply_ttl_ms, reply_ttl_ms)
    if owner then
      redis.call('HSET', key, 'held_until', held_until)
      redis.call('RPUSH', wakeup_prefix .. owner, '1')
      redis.call('PEXPIRE', wakeup_prefix .. owner, 60000)
    end
  end
  return redis.call('HEXISTS', key, 'held_until') == 1
end

-- How long the handlers of requests that were superseded for this one may still be at it.
local function held_ms(after, now)
  local left = 0
  for _, key in ipairs(lines(after)) do
    left = math.max(left, tonumber(redis.call('HGET', key, 'held_until') or '0') - now)
  end
  return left
end

-- A superseded request's handler has ended: what waits for that may begin.
local function confirm(key, record, token)
  if record.held_until and record.token == token then
    redis.call('HDEL', key, 'held_until', 'span')
  end
end

-- The span of a claim whose handler has not said how it ended, to be told of once.
local function take_span(key, record)
  if not record.span or record.span == '' then
    return ''
  end
  redis.call('HDEL', key, 'span')
  redis.call('HSET', key, 'told', record.token)
  return record.span
end

-- Many requests make the same transition in one call. Each is done whole or not at all, and
-- one that is refused does not touch the others: its answer is {'error', why}.
-- KEYS record and stream of each. ARGV what holds for all, then for each request how many
-- arguments of its own follow, and these. Returns an answer for each.
local function each(transition, shared)
  return function(keys, args)
    local answers, at = {}, shared + 1
    for i = 1, #keys, 2 do
      local last = at + tonumber(args[at])
      local done, answer = pcall(transition, keys[i], keys[i + 1], args, slice(args, at + 1, last))
      if not done then
        answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }
      end
      answers[#answers + 1] = answer
      at = last + 1
    end
    return answers
  end
end

-- emit: record and entry are written together, so that a command whose answer was
-- lost on the way can be emitted again and is in the stream once. What it supersedes is ended
-- in the same step.
-- Shared: reply_ttl_ms, prefix of wakeup_prefix, instance. Own: the fields of the entry from
-- correlation_id to parent_span_id, the keys of the reply streams a line each, of those that
-- get the end alone, then names and values: `deadline_ms` from now, `maxlen`, `ttl_ms`, `effect` that the handler must declare,
-- `supersedes` a record, as often as need be.
-- Returns {'new' | 'known' | 'conflict', entry_id, counter}.
-- The counter grows with every command, so that older data put back are noticed.
local function emit(key, stream, shared, own)
  local reply_ttl_ms, wakeup_prefix, instance = shared[1], shared[2], shared[3]
  local trace, options, superseded = { own[8], own[9], own[10] }, {}, {}
  for i = 13, #own, 2 do
    if own[i] == 'supersedes' then
      superseded[#superseded + 1] = own[i + 1]
    else
      options[own[i]] = own[i + 1]
    end
  end
  local about = {
    digest = digest_of(own[4], own[5]), reply_streams = own[11], end_streams = own[12],
    effect = options.effect,
  }
  require_reply_streams(about)
  if #superseded > 0 then
    require_type(stream, 'stream')
  end
  for _, other in ipairs(superseded) do
    require_type(other, 'hash')
    require_reply_streams(record_of(other))
  end
  local counter = tonumber(redis.call('HGET', instance, 'emitted') or '0') + (counted[instance] or 0) + 1

  local record = fields_of(key, { 'digest', 'cancel', 'followed' })
  local now = now_ms()
  local fields = {}
  for i = 1, 10 do
    fields[2 * i - 1], fields[2 * i] = OF_COMMAND[i], own[i]
  end
  if options.deadline_ms then
    fields[21], fields[22] = 'deadline', int(now + tonumber(options.deadline_ms))
  end
  fields[#fields + 1] = 'timestamp'
  fields[#fields + 1] = int(now)
  if record.followed and not record.digest then
    about.followed, about.reply_streams = true, with_log(key, about.reply_streams)
  end
  if not record.digest and record.cancel then
    -- The cancel came first: the request is over before it began, and nothing is sent.
    new_record(key, stream, '0-0', fields, about)
    local cancel = cjson.decode(record.cancel)
    record = record_of(key)
    conclude(key, record, stream, 'cancelled', '{}', cancel, reply_ttl_ms, reply_ttl_ms)
  end
  if record.digest then
    record = record_of(key)
    if record.digest ~= about.digest or record.stream ~= stream then
      return { 'conflict', record.entry_id, '0' }
    end
    join_request(key, record, about, reply_ttl_ms)
    return { 'known', record.entry_id, '0' }
  end

  local after = {}
  for _, other in ipairs(superseded) do
    if close(other, trace, wakeup_prefix, reply_ttl_ms) then
      after[#after + 1] = other
    end
  end
  about.after = table.concat(after, '\n')
  local entry_id = add_entry(stream, fields, options.maxlen, options.ttl_ms)
  if type(entry_id) == 'table' then
    error(entry_id)
  end
  counted[instance] = (counted[instance] or 0) + 1
  new_record(key, stream, entry_id, fields, about)
  return { 'new', entry_id, int(counter) }
end

-- adopt: gives an entry that nobody emitted here its record, or finds out that it is a second
-- one of its request, for whose end the record's own entry answers.
-- KEYS record, stream. ARGV group, entry_id, reply_ttl_ms, retention_ms, the keys of the reply
-- streams a line each, fields of the entry, with a request_id and a correlation_id...
-- Returns {'adopted'} | {'done', status, ''} | {'conflict'}.
local function adopt(keys, args)
  local key, stream = keys[1], keys[2]
  local group, entry_id, reply_ttl_ms, retention_ms, reply_streams = unpack(args, 1, 5)
  local fields = slice(args, 6)
  local about = {
    digest = digest_of(value_of(fields, 'event_type'), value_of(fields, 'payload')),
    reply_streams = reply_streams,
  }
  require_reply_streams(about)
  local record = record_of(key)
  if record.digest then
    if record.digest ~= about.digest then
      return { 'conflict' }
    end
    if record.entry_id == entry_id then
      return { 'adopted' }
    end
    join_request(key, record, about, reply_ttl_ms)
    ack(stream, group, entry_id)
    return { 'done', record.status, '' }
  end
  if record.followed then
    about.followed, about.reply_streams = true, with_log(key, reply_streams)
  end
  if value_of(fields, 'timestamp') == '' then
    fields[#fields + 1], fields[#fields + 2] = 'timestamp', int(now_ms())
  end
  new_record(key, stream, entry_id, fields, about)
  if record.cancel then
    local cancel = cjson.decode(record.cancel)
    conclude(key, record_of(key), stream, 'cancelled', '{}', cancel, reply_ttl_ms, retention_ms, group, entry_id)
    return { 'done', 'cancelled', '' }
  end
  return { 'adopted' }
end

-- What of a record decides a first claim; the others look at all of it.
local OF_FIRST_CLAIM = { 'entry_id', 'status', 'epoch', 'reply_streams', 'effect', 'after',
  'correlation_id', 'request_id', 'saga_id', 'event_type' }

-- A request that has killed its handlers too often ends as a dead letter and one failed reply.
local function give_up(key, record, stream, entry_id, trace, group, reply_ttl_ms, retention_ms)
  local dead = stream .. ':dead'
  require_type(dead, 'stream')
  require_reply_streams(record)
  local lost = 'its handler was lost ' .. record.epoch .. ' times, the last one at ' .. (record.owner or '?')
  local payload = cjson.encode({
    error_type = 'HandlerLost', message = lost, trace_id = string.sub(trace[1], 4, 35),
  })
  local letter = command_of(record)
  letter[#letter + 1], letter[#letter + 2] = 'dead_reason', 'HandlerLost: ' .. lost
  letter[#letter + 1], letter[#letter + 2] = 'dead_entry_id', entry_id
  redis.call('XADD', dead, '*', unpack(letter))
  local span = take_span(key, record)
  conclude(key, record, stream, 'failed', payload, trace, reply_ttl_ms, retention_ms, group, entry_id)
  return { 'done', 'failed', span, 'dead' }
end

-- begin: a claim with a token. It raises the epoch, so that whoever held the request
-- before can write no more; asked again with the same token it answers the same, so
-- that a lost answer costs nothing. A release that was announced, as at a shutdown, is not
-- held against a request as one that has killed its handler.
-- Shared: group, owner, lease_ms, reply_ttl_ms, retention_ms, max_deliveries. Own: entry_id,
-- token, traceparent, tracestate, parent span id.
-- A claim's span stays in the record until its handler has said how it ended: whoever comes
-- after one that was killed is told of it (epoch, begin in ms, traceparent), and traces it.
-- Returns {'claimed', epoch, now, effect that it must have, last progress, lost span or ''} |
-- {'busy', owner, ms left} | {'wait', ms left at most for a handler that is to end first} |
-- {'done', status, lost span or '', 'dead' if it is given up now} | {'unknown'}: this is not
-- the entry of a record, adopt it.
local function begin(key, stream, shared, own)
  local group, owner, lease_ms, reply_ttl_ms, retention_ms, max_deliveries = unpack(shared, 1, 6)
  local entry_id, token, trace = own[1], own[2], { own[3], own[4], own[5] }
  local now = now_ms()
  local record = fields_of(key, OF_FIRST_CLAIM)
  if record.entry_id ~= entry_id then
    return { 'unknown' }
  end
  if record.status ~= 'pending' then
    record = record_of(key)
  end
  if TERMINAL[record.status] then
    ack(stream, group, entry_id)
    local lost = held_ms(key, now) <= 0
    return { 'done', record.status, lost and take_span(key, record) or '' }
  end

  if record.token == token then
    return { 'claimed', record.epoch, int(now), record.effect or '', record.progress or '', record.lost or '' }
  end
  local held = held_ms(record.after, now)
  if held > 0 then
    return { 'wait', int(held) }
  end
  local left = tonumber(record.lease_until or '0') - now
  if record.status == 'running' and left > 0 then
    return { 'busy', record.owner, int(left) }
  end
  local claims = tonumber(record.epoch)
  if claims + 1 - tonumber(record.released or '0') > tonumber(max_deliveries) then
    return give_up(key, record, stream, entry_id, trace, group, reply_ttl_ms, retention_ms)
  end
  local at = int(now)
  record.epoch = int(claims + 1)
  add_replies(record, reply_ttl_ms, stage_of(record, 'start', '{}', trace, at))
  local lost = take_span(key, record)
  local claimed = { 'status', 'running', 'epoch', record.epoch, 'owner', owner, 'token', token,
    'lease_until', int(now + lease_ms), 'began', at }
  if claims > 0 then
    claimed[#claimed + 1], claimed[#claimed + 2] = 'seq', '0'
  end
  if lost ~= (record.lost or '') then
    claimed[#claimed + 1], claimed[#claimed + 2] = 'lost', lost
  end
  if trace[1] ~= '' then
    claimed[#claimed + 1], claimed[#claimed + 2] = 'span', record.epoch .. ' ' .. at .. ' ' .. trace[1]
  end
  redis.call('HSET', key, unpack(claimed))
  return { 'claimed', record.epoch, at, record.effect or '', record.progress or '', lost }
end

local OF_PROGRESS = { 'token', 'status', 'epoch', 'seq', 'reply_streams', 'followed', 'began',
  'correlation_id', 'request_id', 'saga_id', 'event_type' }

-- progress: numbered, so that a repeated one is written once; fenced by the token. The last
-- one stays in the record, for whoever takes the request over to go on from.
-- Shared: reply_ttl_ms. Own: token, seq, payload, traceparent, tracestate, parent span id.
-- Returns {'ok'} | {'stale', status, epoch}.
local function progress(key, _, shared, own)
  local reply_ttl_ms, token, seq, payload, trace = shared[1], own[1], own[2], own[3], slice(own, 4)
  local record = fields_of(key, OF_PROGRESS)
  if not owns(record, token) then
    return { 'stale', record.status or '', record.epoch or '' }
  end
  if tonumber(seq) > tonumber(record.seq or '0') then
    require_reply_streams(record)
    if not record.followed then
      require_type(key .. ':stages', 'stream')
      open_log(key, record, trace, reply_ttl_ms)
    end
    redis.call('HSET', key, 'seq', seq, 'progress', payload)
    add_replies(record, reply_ttl_ms, stage_of(record, 'progress', payload, trace, int(now_ms())))
  end
  return { 'ok' }
end

-- follow: the request keeps a log of its stages from here on, also one that has not come yet.
-- KEYS record. ARGV reply_ttl_ms, traceparent, tracestate, parent span id.
local function follow(keys, args)
  local key, reply_ttl_ms = keys[1], args[1]
  require_type(key, 'hash')
  require_type(key .. ':stages', 'stream')
  local record = record_of(key)
  if not record.digest then
    redis.call('HSET', key, 'followed', '1')
    redis.call('PEXPIRE', key, reply_ttl_ms)
  elseif not record.followed then
    open_log(key, record, slice(args, 2), reply_ttl_ms)
  end
  return { 'ok' }
end

-- finish: result, terminal reply and ack together: there is no ack without a reply,
-- and the first outcome stays.
-- A handler's own writes are done here too, if all is still as it read it: otherwise
-- nothing is written and nothing ends.
-- Shared: group, retention_ms, reply_ttl_ms. Own: entry_id, token, status, payload,
-- traceparent, tracestate, parent span id, then seven for each write: key, then field,
-- expected and value, each with a flag before it.
-- Returns {'ok'} | {'stale', status, epoch} | {'mismatch', key}.
local function finish(key, stream, shared, own)
  local entry_id, token, status, payload = own[1], own[2], own[3], own[4]
  local record = fields_of(key, OF_CONCLUSION)
  confirm(key, record, token)
  if record.token == token and record.status == status then
    return { 'ok' }
  end
  if not owns(record, token) then
    return { 'stale', record.status or '', record.epoch or '' }
  end
  if #own > 7 then
    require_reply_streams(record)
  end
  for at = 8, #own, 7 do
    local target, is_field, field, is_expected, expected = unpack(own, at, at + 4)
    require_type(target, is_field == '1' and 'hash' or 'string')
    local found
    if is_field == '1' then
      found = redis.call('HGET', target, field)
    else
      found = redis.call('GET', target)
    end
    if (is_expected == '1' and found ~= expected) or (is_expected == '0' and found) then
      return { 'mismatch', target }
    end
  end
  for at = 8, #own, 7 do
    local target, is_field, field = unpack(own, at, at + 2)
    local is_value, value = own[at + 5], own[at + 6]
    if is_field == '1' and is_value == '1' then
      redis.call('HSET', target, field, value)
    elseif is_field == '1' then
      redis.call('HDEL', target, field)
    elseif is_value == '1' then
      redis.call('SET', target, value)
    else
      redis.call('DEL', target)
    end
  end
  local trace = { own[5], own[6], own[7] }
  conclude(key, record, stream, status, payload, trace, shared[3], shared[2], shared[1], entry_id)
  return { 'ok' }
end

-- renew: keeps the leases of one listener, from a thread that its handlers cannot block.
-- Owner and token are checked first: a late renewal must not steal a request back. An
-- entry's idle time starts anew with it, so that no sweeper takes live work for dead.
-- KEYS record and stream of each claim. ARGV lease_ms, group, owner, then token and entry_id
-- of each. Returns for each '1' kept, 'c' kept and to be cancelled, or '0' lost.
local function renew(keys, args)
  local lease_ms, group, owner = tonumber(args[1]), args[2], args[3]
  local until_ms = int(now_ms() + lease_ms)
  local out = {}
  for i = 1, #keys / 2 do
    local key, stream = keys[2 * i - 1], keys[2 * i]
    local token, entry_id = args[2 * i + 2], args[2 * i + 3]
    local found = redis.call('HMGET', key, 'token', 'status', 'cancel', 'held_until')
    if found[1] == token and found[2] == 'running' then
      redis.call('HSET', key, 'lease_until', until_ms)
      redis.pcall('XCLAIM', stream, group, owner, 0, entry_id, 'JUSTID')
      out[i] = found[3] and 'c' or '1'
    elseif found[1] == token and found[4] then
      -- Closed, but its handler is still at it: what comes after it goes on waiting.
      redis.call('HSET', key, 'held_until', until_ms)
      out[i] = 'c'
    else
      out[i] = '0'
    end
  end
  return out
end

-- release: gives a claim back without an outcome, as at a shutdown; the next sweep takes it
-- at once, and it does not count as a lost handler. For a superseded request it confirms the end.
-- KEYS record, stream. ARGV group, entry_id, owner, token. Returns {'ok'} | {'stale', status} |
-- {'told'}: another one has the request, and has told of this claim's span.
local function release(keys, args)
  local key, stream = keys[1], keys[2]
  local group, entry_id, owner, token = unpack(args, 1, 4)
  local record = record_of(key)
  confirm(key, record, token)
  if record.told == token then
    return { 'told' }
  end
  if not owns(record, token) then
    return { 'stale', record.status or '' }
  end
  redis.call('HSET', key, 'lease_until', '0', 'token', '')
  redis.call('HDEL', key, 'span')
  redis.call('HINCRBY', key, 'released', 1)
  redis.pcall('XCLAIM', stream, group, owner, 0, entry_id, 'IDLE', 86400000, 'JUSTID')
  return { 'ok' }
end

-- cancel: ends a request that has not begun, asks the handler of one that has, and is
-- remembered for one that has not come yet.
-- KEYS record. ARGV reply_ttl_ms, retention_ms, prefix of wakeup_prefix, traceparent, tracestate,
-- parent span id. Returns {'cancelled' | 'cancelling' | how it ended}.
local function cancel(keys, args)
  local key, reply_ttl_ms, retention_ms, trace = keys[1], args[1], args[2], slice(args, 4)
  require_type(key, 'hash')
  local record = record_of(key)
  require_reply_streams(record)
  local wakeup_list = args[3] .. (record.owner or '')
  require_type(wakeup_list, 'list')
  if not record.digest then
    redis.call('HSET', key, 'cancel', cjson.encode(trace))
    redis.call('PEXPIRE', key, retention_ms)
    return { 'cancelled' }
  end
  if TERMINAL[record.status] then
    return { record.status }
  end
  if record.status == 'pending' then
    conclude(key, record, record.stream, 'cancelled', '{}', trace, reply_ttl_ms, retention_ms)
    return { 'cancelled' }
  end
  redis.call('HSET', key, 'cancel', cjson.encode(trace))
  -- Whoever renews the lease waits at this bell, and need not wait for the next renewal.
  redis.call('RPUSH', wakeup_list, '1')
  redis.call('PEXPIRE', wakeup_list, 60000)
  return { 'cancelling' }
end

-- Drops finished commands behind the last `keep`, never one that is pending or undelivered.
local function trim(stream, keep)
  local surplus = redis.call('XLEN', stream) - keep
  if surplus < keep / 10 then
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

-- Puts back commands whose entries are gone though they have not ended: the stream was
-- deleted, or trimmed past them. The oldest open one tells whether there are any.
local function requeue(stream, most)
  for _ = 1, most do
    local open = redis.call('ZRANGE', stream .. ':open', 0, 0)[1]
    if not open then
      return
    end
    local record = record_of(open)
    if not record.digest or TERMINAL[record.status] then
      redis.call('ZREM', stream .. ':open', open)
    else
      if #redis.call('XRANGE', stream, record.entry_id, record.entry_id) > 0 then
        return
      end
      redis.call('HSET', open, 'entry_id', redis.call('XADD', stream, '*', unpack(command_of(record))))
      redis.call('ZADD', stream .. ':open', int(now_ms()), open)
    end
  end
end

-- sweep: takes over entries that nobody renewed for a lease. One sweeper a group and
-- stream at a time, from where the last one stopped, never more than asked for.
-- KEYS sweeper, stream. ARGV owner, group, lease_ms, count, how many finished commands stay.
-- Returns {'busy'} | {'ok', entries...}, each {entry_id, fields}.
local function sweep(keys, args)
  local sweeper, stream, owner, group, lease_ms, count = keys[1], keys[2], args[1], args[2], args[3], args[4]
  require_type(sweeper, 'hash')
  local now = now_ms()
  local held = redis.call('HMGET', sweeper, 'owner', 'until', 'cursor')
  if held[1] and held[1] ~= owner and tonumber(held[2]) > now then
    return { 'busy' }
  end
  local found = redis.call('XAUTOCLAIM', stream, group, owner, lease_ms, held[3] or '0-0', 'COUNT', count)
  redis.call('HSET', sweeper, 'owner', owner, 'until', int(now + 0.4 * tonumber(lease_ms)), 'cursor', found[1])
  redis.call('PEXPIRE', sweeper, 10 * tonumber(lease_ms))
  local out = { 'ok' }
  for _, entry in ipairs(found[2]) do
    out[#out + 1] = entry
  end
  -- A consumer goes only when nothing is pending for it, or what is would be lost.
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    if consumer[2] ~= owner and consumer[4] == 0 and consumer[6] > 10 * tonumber(lease_ms) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer[2])
    end
  end
  trim(stream, tonumber(args[5]))
  requeue(stream, REQUEUE_LIMIT)
  return out
end

-- event: an entry on any stream; but a stage of a request that has a record is its
-- handler's alone, and its terminal stage is written by finish only: otherwise a
-- stranger could end a request that is still running.
-- KEYS stream, record. ARGV status, token, maxlen, ttl_ms, fields...
-- Returns {'ok', entry_id} | {'refused', status, owner}.
local function event(keys, args)
  local stream, key = keys[1], keys[2]
  local status, token = args[1], args[2]
  local maxlen, ttl_ms = args[3] ~= '' and args[3], args[4] ~= '' and args[4]
  require_type(stream, 'stream')
  local record = record_of(key)
  if record.digest and STAGE[status] and (TERMINAL[status] or not owns(record, token)) then
    return { 'refused', record.status, record.owner or '' }
  end
  local fields = slice(args, 5)
  fields[#fields + 1] = 'timestamp'
  fields[#fields + 1] = int(now_ms())
  local entry_id = add_entry(stream, fields, maxlen, ttl_ms)
  return { 'ok', entry_id }
end

-- reject: an entry that cannot become a request leaves as a dead letter, in one step
-- with its ack; who asked is told, unless the id belongs to a request that is known.
-- KEYS stream, dead stream, record, reply stream. ARGV group, entry_id, reply_ttl_ms,
-- n, n dead-letter fields and values, fields of the reply (none: nobody is told)...
local function reject(keys, args)
  local stream, dead, key, reply_stream = unpack(keys, 1, 4)
  local group, entry_id, reply_ttl_ms, count = args[1], args[2], args[3], tonumber(args[4])
  local letter, fields = slice(args, 5, 4 + count), slice(args, 5 + count)
  require_type(dead, 'stream')
  local pending = redis.call('XPENDING', stream, group, entry_id, entry_id, 1)
  if #pending == 0 then
    return { 'done' }
  end
  local tell = #fields > 0 and redis.call('TYPE', reply_stream).ok
  tell = (tell == 'none' or tell == 'stream') and redis.call('HEXISTS', key, 'digest') == 0
  redis.call('XADD', dead, '*', unpack(letter))
  if tell then
    local count = #fields
    fields[count + 1], fields[count + 2] = 'epoch', '0'
    fields[count + 3], fields[count + 4] = 'timestamp', int(now_ms())
    add_reply(reply_stream, reply_ttl_ms, fields)
  end
  redis.call('XACK', stream, group, entry_id)
  return { 'ok' }
end

-- announce: which event types a listener handles, for as long as it says so.
-- KEYS one sorted set a stream. ARGV ttl_ms (0: no more), then a member for each key.
-- Members are "event type \n owner"; a key may stand several times.
local function announce(keys, args)
  local ttl_ms = tonumber(args[1])
  local now = now_ms()
  for i, key in ipairs(keys) do
    require_type(key, 'zset')
    redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now))
    if ttl_ms > 0 then
      redis.call('ZADD', key, int(now + ttl_ms), args[i + 1])
      redis.call('PEXPIRE', key, ttl_ms)
    else
      redis.call('ZREM', key, args[i + 1])
    end
  end
  return { 'ok' }
end

-- forward: puts a command back into its stream for a live listener that can handle it.
-- Its old entry leaves and its new one comes in one step, so that it is never in neither.
-- KEYS stream, announcements, record. ARGV group, entry_id, event_type, fields...
-- Returns {'passed', entry_id} | {'nobody', event types that are handled...}.
local function forward(keys, args)
  local stream, key, group, entry_id, event_type = keys[1], keys[3], args[1], args[2], args[3]
  local types, found = {}, false
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys[2], int(now_ms()), '+inf')) do
    local handled = lines(member)[1]
    found = found or handled == event_type
    if not contains(types, handled) then
      types[#types + 1] = handled
    end
  end
  if not found then
    table.sort(types)
    return { 'nobody', unpack(types) }
  end
  require_type(key, 'hash')
  if redis.call('XACK', stream, group, entry_id) == 0 then
    return { 'passed', entry_id }
  end
  local new_id = redis.call('XADD', stream, '*', unpack(slice(args, 4)))
  redis.call('XDEL', stream, entry_id)
  if redis.call('HGET', key, 'entry_id') == entry_id then
    redis.call('HSET', key, 'entry_id', new_id)
  end
  return { 'passed', new_id }
end

-- journal: a saga's journal moves by compare-and-set, so that two engines that both saw
-- one state cannot both move it on; each move is an entry in the journal's stream. An open
-- saga stands in a sorted set by the time when somebody should look after it, an ended one
-- by the time when it and its requests' records expire, together.
-- KEYS saga, its stream, open, ended, stuck, records... ARGV expected version, journal, saga id,
-- 'open' | 'ended' | 'stuck', ms until it is due or expires, fields of the stream's entry...
-- Returns {'ok', version} | {'moved', version}.
local function journal(keys, args)
  local saga, stream, open, ended, stuck = unpack(keys, 1, 5)
  local expected, text, saga_id, state, delay_ms = unpack(args, 1, 5)
  require_type(saga, 'hash')
  require_type(stream, 'stream')
  for i = 3, 5 do
    require_type(keys[i], 'zset')
  end
  local version = redis.call('HGET', saga, 'version') or '0'
  if version ~= expected then
    return { 'moved', version }
  end
  local now = now_ms()
  version = int(tonumber(version) + 1)
  redis.call('HSET', saga, 'version', version, 'journal', text)
  redis.call('XADD', stream, '*', 'version', version, 'timestamp', int(now), unpack(slice(args, 6)))
  for i = 3, 5 do
    redis.call('ZREM', keys[i], saga_id)
  end
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', int(now))
  if state == 'open' then
    redis.call('ZADD', open, int(now + tonumber(delay_ms)), saga_id)
  elseif state == 'stuck' then
    redis.call('ZADD', stuck, int(now), saga_id)
  else
    redis.call('ZADD', ended, int(now + tonumber(delay_ms)), saga_id)
    redis.call('PEXPIRE', ended, delay_ms)
    redis.call('PEXPIRE', saga, delay_ms)
    redis.call('PEXPIRE', stream, delay_ms)
    for i = 6, #keys do
      redis.call('PEXPIRE', keys[i], delay_ms)
    end
  end
  return { 'ok', version }
end

-- take_due: open sagas that nobody has looked after lately, each given to one asker at a time.
-- KEYS open. ARGV most, ms until they are due again. Returns {'ok', saga ids...}.
local function take_due(keys, args)
  require_type(keys[1], 'zset')
  local now = now_ms()
  local found = redis.call('ZRANGEBYSCORE', keys[1], '-inf', int(now), 'LIMIT', 0, args[1])
  for _, saga_id in ipairs(found) do
    redis.call('ZADD', keys[1], int(now + tonumber(args[2])), saga_id)
  end
  return { 'ok', unpack(found) }
end

-- look_after: somebody is at these sagas, and will say so again or let them become due.
-- KEYS open. ARGV ms until they are due, saga ids...
local function look_after(keys, args)
  require_type(keys[1], 'zset')
  local at = int(now_ms() + tonumber(args[1]))
  for i = 2, #args do
    redis.call('ZADD', keys[1], 'XX', at, args[i])
  end
  return { 'ok' }
end

-- join: a reader's own group on a reply stream, made at 0 so that nothing is missed.
-- Groups of readers that have not read for stale_ms are dead and go.
-- KEYS stream. ARGV group, ttl_ms, stale_ms, prefix of readers' groups.
local function join(keys, args)
  local stream, group, ttl_ms, stale_ms, prefix = keys[1], args[1], args[2], tonumber(args[3]), args[4]
  require_type(stream, 'stream')
  local existed = redis.call('EXISTS', stream) == 1
  if existed then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local name = flat[2]
      if string.sub(name, 1, #prefix) == prefix and name ~= group then
        local consumers = redis.call('XINFO', 'CONSUMERS', stream, name)
        local freshest = #consumers == 0 and 0 or math.huge
        for _, consumer in ipairs(consumers) do
          for i = 1, #consumer, 2 do
            if consumer[i] == 'idle' then
              freshest = math.min(freshest, consumer[i + 1])
            end
          end
        end
        if freshest > stale_ms then
          redis.call('XGROUP', 'DESTROY', stream, name)
        end
      end
    end
  end
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
  end
  redis.call('XGROUP', 'CREATECONSUMER', stream, group, group)
  if not existed then
    redis.call('PEXPIRE', stream, ttl_ms)
  end
  return { 'ok' }
end

-- leave: the reader's group goes, and with it the stream if nobody ever wrote to it.
-- KEYS stream. ARGV group.
local function leave(keys, args)
  local stream = keys[1]
  if redis.call('EXISTS', stream) == 0 then
    return { 'ok' }
  end
  redis.call('XGROUP', 'DESTROY', stream, args[1])
  if redis.call('XLEN', stream) == 0 and #redis.call('XINFO', 'GROUPS', stream) == 0 then
    redis.call('DEL', stream)
  end
  return { 'ok' }
end

local function register(name, callback, flags)
  local function call(keys, args)
    clock, typed, expiring, opened, ended, acked, counted = nil, {}, {}, {}, {}, {}, {}
    local done, answer = pcall(callback, keys, args)
    settle()
    if not done then
      error(answer, 0)
    end
    return answer
  end
  redis.register_function({ function_name = '@LIBRARY@_' .. name, callback = call, flags = flags or {} })
end

register('emit', each(emit, 3))
register('adopt', adopt)
register('begin', each(begin, 6))
register('progress', each(progress, 1))
register('follow', follow)
register('finish', each(finish, 3))
register('event', event)
register('release', release, { 'allow-oom' })
register('sweep', sweep, { 'allow-oom' })
-- What keeps, ends or frees work must go on when the server is full.
register('renew', renew, { 'allow-oom' })
register('cancel', cancel, { 'allow-oom' })
register('reject', reject)
register('announce', announce)
register('forward', forward)
register('journal', journal)
register('take_due', take_due, { 'allow-oom' })
register('look_after', look_after, { 'allow-oom' })
register('join', join)
-- A full server must still be able to get rid of things.
register('leave', leave, { 'allow-oom' })
