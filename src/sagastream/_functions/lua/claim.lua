-- Claims, fenced by the epoch: begin, progress, finish, renew, release, postpone.

-- A request may be given back this many times for each handler that it may lose.
local RELEASES_PER_DELIVERY = 4

-- How long the handlers of the requests that this one superseded may still run.
local function held_ms(call, after, now)
  local left = 0
  for _, key in ipairs(lines(after)) do
    left = math.max(left, (read_record(call, key).held_until or 0) - now)
  end
  return left
end

-- Note that the handler of a superseded request has ended: the request that waits for it may begin.
local function confirm(call, key, record, token)
  if record.held_until > 0 and record.token == token then
    redis.call('SET', key, redis.call('HGET', key, 'ended'), 'KEEPTTL')
    record.held_until, record.span = 0, ''
    leave_limiters(call, command_of(record).stream, key, record)
  end
end

-- Return the span of a claim whose handler never ended it, and remove it from the record, so that
-- it is recorded once.
local function take_lost_span(record)
  local span = record.span
  if span ~= '' then
    record.span, record.span_taken = '', record.token
  end
  return span
end

-- End a request that no handler ends: one dead letter, and a failed reply to each stream that takes one.
local function make_dead_letter(call, key, record, entry_id, trace, retention, group, lost)
  local dead = command_of(record).stream .. ':dead'
  require_type(call, dead, 'stream')
  drop_broken_streams(record)
  local payload = cjson.encode({
    error_type = 'HandlerLost', message = lost, trace_id = string.sub(trace[1], 4, 35),
  })
  local letter = command_entry(call, key, record)
  letter[#letter + 1], letter[#letter + 2] = 'dead_reason', 'HandlerLost: ' .. lost
  letter[#letter + 1], letter[#letter + 2] = 'dead_entry_id', entry_id
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_LETTERS, '*', unpack(letter))
  local span = take_lost_span(record)
  conclude(call, key, record, 'failed', payload, trace, retention, group, entry_id)
  return { 'done', 'failed', span, 'dead' }
end

-- The answer of `begin`: without what most claims do not have.
local function claimed(call, key, record)
  if record.attempts == 1 and record.effect == '' and record.context == '' then
    return { 'claimed', record.epoch, call.now_text }
  end
  local progress = last_progress(key, record)
  return { 'claimed', record.epoch, call.now_text, record.attempts, record.failures, record.effect, progress,
    record.lost, record.context }
end

-- begin: claim a request with a token. The epoch grows, so that no earlier claim can write any more.
-- Race: the answer is lost and the claim is repeated; the same token gets the same answer. Two
-- listeners claim at once; the second is answered `busy` while the lease of the first is current.
-- A claim that was released, as at a shutdown, does not count as a lost handler, but releases have
-- their own limit: no request is delivered without end. The span of a
-- claim stays in the record until its handler has ended it: the next claim gets the span of a
-- handler that was killed (attempt, begin in ms, traceparent), and records it.
-- Shared: group, consumer, lease_ms, max_deliveries, four of the retention. Own: entry_id,
-- token, traceparent, tracestate, parent span id, then three for each limiter: name, count, interval.
-- Returns {'claimed', epoch, now, then if there is more to say: which claim of the request this is,
-- how many failed, effect that the handler must declare, last progress, lost span, context} |
-- {'busy', consumer, ms left} | {'wait', largest number of ms until a superseded handler ends} |
-- {'done', status, lost span, 'dead' if this call made it a dead letter, otherwise ''} |
-- {'limited', why, ms until a sweep looks again or ''}: it waits in a limiter's queue, without its entry |
-- {'unknown'}: the record does not name this entry; adopt it.
local function begin(call, key, stream, args, before, last)
  local group, consumer, lease_ms, limit = args[1], args[2], args[3], tonumber(args[4])
  local entry_id, token, traceparent, tracestate, parent_span_id = unpack(args, before + 1, before + 5)
  local now, record = now_ms(call), read_record(call, key)
  if record.entry_id ~= entry_id then
    return { 'unknown' }
  end
  if TERMINAL[record.status] then
    ack(call, stream, group, entry_id)
    local span = ''
    if record.span ~= '' and record.held_until <= now then
      span = take_lost_span(record)
      write_state(key, record)
    end
    return { 'done', record.status, span, '' }
  end
  if record.token == token then
    return claimed(call, key, record)
  end
  local held = record.after == '' and 0 or held_ms(call, record.after, now)
  if held > 0 then
    return { 'wait', int(held) }
  end
  local left = record.lease_until - now
  if record.status == 'running' and left > 0 then
    return { 'busy', record.consumer, int(left) }
  end
  local attempts, released, trace = record.attempts - record.failures, record.released, { traceparent, tracestate, parent_span_id }
  local too_often
  if attempts + 1 - released > limit then
    too_often = 'its handler was lost ' .. int(attempts - released) .. ' times'
  elseif released >= limit * RELEASES_PER_DELIVERY then
    too_often = 'its handlers gave it back ' .. int(released) .. ' times'
  end
  if too_often then
    too_often = too_often .. ', the last one on ' .. (record.consumer == '' and '?' or record.consumer)
    local retention = retention_of(call, args, 5, true)
    return make_dead_letter(call, key, record, entry_id, trace, retention, group, too_often)
  end
  local limits = last > before + 5 and slice(args, before + 6, last) or NO_LIMITS
  if record.status == 'running' then
    leave_limiters(call, stream, key, record) -- they were those of an earlier claim
  end
  if limits ~= NO_LIMITS or has_pauses(call, stream) then
    if (tonumber(command_of(record).deadline) or math.huge) <= now then
      limits = NO_LIMITS -- it fails, and its handler does not run
    else
      local waits_at, count, interval = refused_by(call, stream, key, record, limits)
      if waits_at then
        return limited(call, stream, key, record, limits, group, entry_id, waits_at, count, interval)
      end
    end
  end
  record.epoch, record.attempts = next_epoch(call, record.epoch), record.attempts + 1
  if record.reply_streams ~= '' then
    add_replies(call, key, record, retention_of(call, args, 5, true), 'start', '{}', trace)
  end
  record.lost = take_lost_span(record)
  record.status, record.consumer, record.token, record.seq = 'running', consumer, token, 0
  record.lease_until, record.began = now + lease_ms, now
  if traceparent ~= '' then
    record.span = int(record.attempts) .. ' ' .. call.now_text .. ' ' .. traceparent
  end
  if limits ~= NO_LIMITS then
    take_permits(call, stream, key, record, limits, nil, record.lease_until)
  end
  write_state(key, record)
  if record.turn ~= '' then
    leave_turn(call, stream, key, record)
  end
  return claimed(call, key, record)
end

-- progress: write a numbered progress stage. The last one stays in the record, so that the next
-- claim can continue from it.
-- Race: the answer is lost and the stage is repeated; a number that is not higher is not written.
-- Shared: result_ms, remember_ms. Own: token, seq, payload, traceparent, tracestate, parent span id.
-- Returns {'ok'} | {'stale', status}.
local function progress(call, key, _, args, before)
  local token, seq, payload, traceparent, tracestate, parent_span_id = unpack(args, before + 1, before + 6)
  seq = tonumber(seq)
  local record = read_record(call, key)
  if not record.status or not owns(record, token) then
    return { 'stale', record.status or '' }
  end
  if seq > record.seq then
    local trace = { traceparent, tracestate, parent_span_id }
    add_replies(call, key, record, retention_of(call, args, 1), 'progress', payload, trace)
    record.seq, record.progressed = seq, now_ms(call)
    redis.call('HSET', key, 'state', pack_state(record), 'progress', payload)
  end
  return { 'ok' }
end

-- finish: store the outcome, write the terminal reply and ack, in one step. So there is no ack
-- without a reply, and the first outcome stays. An `atomic` handler's writes are done here too,
-- if every value is still the expected one; otherwise nothing is written, and the request does not end.
-- Race: a handler that lost its lease finishes late; its token is stale. The answer is lost and
-- the finish is repeated; the same outcome by the same token is `ok`.
-- Shared: group, four of the retention. Own: entry_id, token, status, payload,
-- traceparent, tracestate, parent span id, then seven for each write: the key, then field,
-- expected and value, each with a flag before it.
-- Returns {'ok'} | {'stale', status} | {'mismatch', key}.
local function finish(call, key, _, args, before, last)
  local entry_id, token, status, payload, traceparent, tracestate, parent_span_id = unpack(args, before + 1, before + 7)
  local record = read_record(call, key)
  if not record.status then
    return { 'stale', '' }
  end
  confirm(call, key, record, token)
  if record.status == status and ended_by(record, token) then
    return { 'ok' }
  end
  if not owns(record, token) then
    return { 'stale', record.status }
  end
  if last > before + 7 then
    require_reply_streams(call, record)
  end
  for at = before + 8, last, 7 do
    local target, is_field, field, is_expected, expected = unpack(args, at, at + 4)
    require_type(call, target, is_field == '1' and 'hash' or 'string')
    local current
    if is_field == '1' then
      current = redis.call('HGET', target, field)
    else
      current = redis.call('GET', target)
    end
    if (is_expected == '1' and current ~= expected) or (is_expected == '0' and current) then
      return { 'mismatch', target }
    end
  end
  for at = before + 8, last, 7 do
    local target, is_field, field = unpack(args, at, at + 2)
    local is_value, value = args[at + 5], args[at + 6]
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
  record.span = '' -- the handler ends its span itself
  local trace, retention = { traceparent, tracestate, parent_span_id }, retention_of(call, args, 2, true)
  conclude(call, key, record, status, payload, trace, retention, args[1], entry_id)
  return { 'ok' }
end

-- Whether an entry is pending for a consumer.
local function is_pending(stream, group, consumer, entry_id)
  local pending = redis.pcall('XPENDING', stream, group, entry_id, entry_id, 1, consumer)
  return not pending.err and #pending > 0
end

-- renew: extend the leases of one listener. This also resets the idle time of their entries, so
-- that no sweeper takes over live work.
-- Race: a late renewal must not steal a request back; the token is checked first.
-- A delivery that waits for its turn has no token: only its entry is kept. A claim whose permit was
-- given to another request, because it was renewed too late, is lost.
-- KEYS record and stream of each claim. ARGV lease_ms, group, consumer, then token and entry_id
-- of each. Returns for each claim '1' kept, 'c' kept and to be cancelled, or '0' lost.
local function renew(call, keys, args)
  local lease_ms, group, consumer = tonumber(args[1]), args[2], args[3]
  local until_ms = now_ms(call) + lease_ms
  local out = {}
  for i = 1, #keys / 2 do
    local key, stream = keys[2 * i - 1], keys[2 * i]
    local token, entry_id = args[2 * i + 2], args[2 * i + 3]
    local is_readable, record = pcall(read_record, call, key)
    if not is_readable then
      record = {} -- a newer release has it
    end
    if token == '' then
      out[i] = '0'
      if is_pending(stream, group, consumer, entry_id) then
        redis.pcall('XCLAIM', stream, group, consumer, 0, entry_id, 'JUSTID')
        out[i] = '1'
      end
    elseif record.token == token and record.status == 'running' and has_permits(call, stream, key, record) then
      record.lease_until = until_ms
      write_state(key, record)
      redis.pcall('XCLAIM', stream, group, consumer, 0, entry_id, 'JUSTID')
      out[i] = record.cancel ~= '' and 'c' or '1'
    elseif record.token == token and record.held_until > 0 then
      -- It is superseded and its handler still runs: the request that superseded it keeps waiting.
      record.held_until = until_ms
      write_state(key, record)
      out[i] = 'c'
    else
      out[i] = '0'
    end
  end
  return out
end

-- release: give a delivery back without an outcome, as at a shutdown. The sweep takes it over
-- when its entry has been idle for a lease; `idle_ms` is how long it counts as idle already. The
-- claim does not count as a lost handler. For a superseded request this confirms that its handler
-- has ended. A delivery whose claim never began, or is not known to have begun, is given back too.
-- Race: another listener has claimed the request meanwhile; only the current token gives it back.
-- KEYS record, stream. ARGV group, entry_id, consumer, token, idle_ms. Returns {'ok'} |
-- {'unclaimed'}: only the entry was given back | {'stale'} | {'span_taken'}: another claim has
-- recorded this claim's span.
local function release(call, keys, args)
  local key, stream = keys[1], keys[2]
  local group, entry_id, consumer, token, idle_ms = unpack(args, 1, 5)
  local record = read_record(call, key)
  if record.status then
    confirm(call, key, record, token)
  end
  if record.span_taken == token then
    return { 'span_taken' }
  end
  local answer = 'unclaimed'
  if record.status and owns(record, token) then
    record.lease_until, record.token, record.span, record.released = 0, '', '', record.released + 1
    leave_limiters(call, stream, key, record)
    write_state(key, record)
    answer = 'ok'
  elseif TERMINAL[record.status] or (record.lease_until or 0) > now_ms(call) then
    return { 'stale' }
  end
  if is_pending(stream, group, consumer, entry_id) then
    redis.pcall('XCLAIM', stream, group, consumer, 0, entry_id, 'IDLE', idle_ms, 'JUSTID')
  end
  return { answer }
end

-- postpone: end an attempt that failed, and let the next one begin later. Meanwhile the request has
-- no entry: its record is in a sorted set by the time at which a sweep adds its entry again.
-- Race: the request was claimed again or ended meanwhile; only the current token postpones it.
-- The answer is lost and the call is repeated; `postponed` has the token.
-- KEYS record, stream. ARGV group, entry_id, token, delay_ms, why it failed.
-- Returns {'ok'} | {'stale', status} | {'cancelled'}: it was cancelled, and must end.
local function postpone(call, keys, args)
  local key, stream = keys[1], keys[2]
  local group, entry_id, token, delay_ms, failure = unpack(args, 1, 5)
  local record = read_record(call, key)
  if record.status then
    confirm(call, key, record, token)
  end
  if not record.status or not owns(record, token) then
    if record.due and record.due > 0 and redis.call('HGET', key, 'postponed') == token then
      return { 'ok' }
    end
    return { 'stale', record.status or '' }
  end
  if record.cancel ~= '' then
    return { 'cancelled' }
  end
  local later = stream .. ':later'
  require_type(call, later, 'zset')
  record.status, record.token, record.consumer, record.span, record.lease_until = 'pending', '', '', '', 0
  record.failures, record.entry_id, record.due = record.failures + 1, NO_ENTRY, now_ms(call) + delay_ms
  leave_limiters(call, stream, key, record)
  redis.call('HSET', key, 'state', pack_state(record), 'failure', failure, 'postponed', token)
  add_paged(call, later, record.due, key)
  append(call.ended, stream, key)
  redis.call('XACK', stream, group, entry_id)
  redis.call('XDEL', stream, entry_id)
  return { 'ok' }
end

register('begin', batched(begin, 8), WHEN_FULL)
register('progress', batched(progress, 2), WHEN_FULL)
register('finish', batched(finish, 5), WHEN_FULL)
register('renew', renew, WHEN_FULL)
register('release', release, WHEN_FULL)
register('postpone', postpone, WHEN_FULL)
