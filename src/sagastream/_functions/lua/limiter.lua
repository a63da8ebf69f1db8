-- Limiters: how many requests of a stream may be handled at once or begin in a time. Those that
-- must wait are in the limiter's fair queue; they have no entry, no lease and no slot.
--
-- A limiter is the hash `STREAM:limit:NAME`, which also is its queue, and the sorted set
-- `…:permits` of the records that it has let through, by the time at which to look whether they
-- still need their permit. NAME begins with its kind:
--   `limit …`   at most `count` requests at once
--   `rate …`    a token bucket: a token each `interval` ms, at most `count` of them. `…:next` is the
--               theoretical arrival time of the generic cell rate algorithm (ITU-T I.371)
--   `turn`      at most `count` requests between the queue and their begin, so that priority and
--               fairness decide late
--   `paused …`  none, for as long as the rest of the name is a field of `STREAM:paused`
--
-- A request takes its permits in the order in which its handler names them, and keeps those that it
-- has while it waits for the next one. As the order is the same for all, no two wait for each
-- other; as a permit is given to the first of the queue and stays with it, none starves.
-- `STREAM:limits` has the limiters with a queue, by the time at which a sweep looks at them.

-- How long a permit of a request that has not begun counts before the limiter looks again.
local RESERVED_MS = 5000
-- The largest number of requests that go on in one call.
local OPEN_LIMIT = 100
-- How many requests of a stream wait for a listener while the others wait for their turn.
local TURNS = 32
-- A limiter by rate looks at its queue this often at most, if its bucket is deep enough.
local RATE_CHECK_MS = 20

local function limiter_key(stream, name)
  return stream .. ':limit:' .. name
end

local function kind_of(name)
  return string.match(name, '^%a+')
end

-- Until when a record needs a permit, at least; nil if it does not.
local function permit_until(call, key, name)
  local is_readable, record = pcall(read_record, call, key)
  local now = now_ms(call)
  if not is_readable then
    return now + RESERVED_MS -- a newer release has it
  end
  if not record.status or not contains(lines(record.permits), name) then
    return nil
  end
  if record.status == 'pending' then
    return now + RESERVED_MS
  end
  local until_ms = math.max(record.held_until, record.status == 'running' and record.lease_until or 0)
  return until_ms > now and until_ms or nil
end

-- How many have a permit. A worker that died frees what it held when its lease has lapsed.
local function permits_in_use(call, base, name, enough)
  local permits = base .. ':permits'
  local count = redis.call('ZCARD', permits)
  if count < enough then
    return count
  end
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', permits, '-inf', int(now_ms(call)))) do
    local until_ms = permit_until(call, key, name)
    if until_ms then
      redis.call('ZADD', permits, int(until_ms), key)
    else
      redis.call('ZREM', permits, key)
    end
  end
  return redis.call('ZCARD', permits)
end

local function arrival_of(base, now)
  return math.max(tonumber(redis.call('GET', base .. ':next') or 0), now)
end

-- How many more requests a limiter lets through now.
local function free_of(call, stream, name, count, interval)
  local base, kind, now = limiter_key(stream, name), kind_of(name), now_ms(call)
  if kind == 'paused' then
    return redis.call('HEXISTS', stream .. ':paused', string.sub(name, 8)) == 1 and 0 or OPEN_LIMIT
  end
  local available = count
  if kind == 'rate' then
    available = count - math.ceil((arrival_of(base, now) - now) / interval - 1e-9)
  end
  return available - permits_in_use(call, base, name, available)
end

-- When a limiter whose queue is not empty must be looked at again.
local function next_check(call, stream, name, count, interval)
  local base, kind, now = limiter_key(stream, name), kind_of(name), now_ms(call)
  if kind == 'paused' then
    return redis.call('HEXISTS', stream .. ':paused', string.sub(name, 8)) == 1 and math.huge or now
  end
  if kind == 'rate' then
    local reserved = redis.call('ZCARD', base .. ':permits')
    local wanted = arrival_of(base, now) + (reserved + 1 - count) * interval
    return math.max(wanted, now + math.min(RATE_CHECK_MS, count * interval / 2))
  end
  local first = redis.call('ZRANGE', base .. ':permits', 0, 0, 'WITHSCORES')[2]
  return math.max(tonumber(first or 0), now)
end

-- Add the entry of a request that may begin now.
local function add_command(call, stream, key, record)
  record.entry_id = redis.call('XADD', stream, '*', unpack(command_entry(call, key, record)))
  write_state(key, record)
  redis.call('ZADD', stream .. ':open', int(now_ms(call)), key)
end

local function add_permit(call, stream, key, record, name, until_ms)
  redis.call('ZADD', limiter_key(stream, name) .. ':permits', int(until_ms), key)
  if not contains(lines(record.permits), name) then
    record.permits = record.permits == '' and name or record.permits .. '\n' .. name
  end
end

-- Whether a request that is renewed has the permits that it began with. Only a lease that has lapsed
-- can have lost them.
local function has_permits(call, stream, key, record)
  if record.permits == '' or record.lease_until > now_ms(call) then
    return true
  end
  for _, name in ipairs(lines(record.permits)) do
    if not redis.call('ZSCORE', limiter_key(stream, name) .. ':permits', key) then
      return false
    end
  end
  return true
end

local function forget_wait(stream, key, record)
  record.waits = ''
  if command_of(record).deadline ~= '' then
    redis.call('ZREM', stream .. ':deadlines', key)
  end
end

-- Let the first of a limiter's queue go on, as many as it lets through.
local function open_limiter(call, stream, name)
  local base = limiter_key(stream, name)
  local spec = redis.call('HMGET', base, 'count', 'interval')
  if not spec[1] then
    redis.call('ZREM', stream .. ':limits', name)
    return -- nothing waits
  end
  local count, interval = tonumber(spec[1]), tonumber(spec[2])
  local kind = redis.call('TYPE', stream).ok
  local free = (kind == 'stream' or kind == 'none') and free_of(call, stream, name, count, interval) or 0
  for _ = 1, math.min(free, OPEN_LIMIT) do
    local key, class, tag, turn = first_of(base)
    if not key then
      break
    end
    local is_readable, record = pcall(read_record, call, key)
    if not is_readable then
      redis.call('ZADD', stream .. ':limits', int(now_ms(call) + RESERVED_MS), name)
      return -- a newer release lets its own go on
    end
    take_first(base, key, class, tag, turn)
    if record.status == 'pending' and record.waits == name then
      forget_wait(stream, key, record)
      if kind_of(name) ~= 'paused' then
        add_permit(call, stream, key, record, name, now_ms(call) + RESERVED_MS)
      end
      add_command(call, stream, key, record)
    end
  end
  if queue_length(base) == 0 then
    redis.call('DEL', base)
    redis.call('ZREM', stream .. ':limits', name)
  else
    local at = free > OPEN_LIMIT and now_ms(call) or next_check(call, stream, name, count, interval)
    redis.call('ZADD', stream .. ':limits', at == math.huge and '+inf' or int(math.ceil(at)), name)
  end
end

-- Let a request wait in a limiter's queue. It has no entry meanwhile. When its deadline passes, it goes
-- into the stream, and the listener that reads it fails it.
local function wait_at(call, stream, key, record, name, count, interval)
  local base = limiter_key(stream, name)
  redis.call('HSET', base, 'count', count, 'interval', interval)
  enqueue(base, key, record.turn)
  record.waits, record.entry_id = name, NO_ENTRY
  write_state(key, record)
  local deadline = tonumber(command_of(record).deadline)
  if deadline then
    redis.call('ZADD', stream .. ':deadlines', int(deadline), key)
  end
  open_limiter(call, stream, name)
end

-- Let a request into its stream: now, or when it is its turn.
local function enter(call, stream, key, record)
  if record.turn == '' then
    add_command(call, stream, key, record)
  else
    wait_at(call, stream, key, record, 'turn', TURNS, 0)
  end
end

-- Return permits of a request: all, or only the one with this name.
local function leave_limiters(call, stream, key, record, only)
  if not record.permits or record.permits == '' then
    return
  end
  local left = {}
  for _, name in ipairs(lines(record.permits)) do
    if only and name ~= only then
      left[#left + 1] = name
    end
  end
  local freed = lines(record.permits)
  record.permits = table.concat(left, '\n')
  for _, name in ipairs(freed) do
    if not only or name == only then
      redis.call('ZREM', limiter_key(stream, name) .. ':permits', key)
      if redis.call('EXISTS', limiter_key(stream, name)) == 1 then
        open_limiter(call, stream, name)
      end
    end
  end
end

-- Remove a request that ends from the queue in which it waits.
local function leave_queue(stream, key, record)
  dequeue(limiter_key(stream, record.waits), key, record.turn)
  forget_wait(stream, key, record)
end

-- Whether anything of a stream is paused.
local function has_pauses(call, stream)
  local found = call.paused[stream]
  if found == nil then
    found = redis.call('EXISTS', stream .. ':paused') == 1
    call.paused[stream] = found
  end
  return found
end

-- What of a stream is paused that has to do with a request; nil if nothing.
local function paused_for(call, stream, record, limits)
  if not has_pauses(call, stream) then
    return nil
  end
  local event_type = command_of(record).event_type
  local names = { '*', event_type }
  local _, _, group = parse_turn(record.turn)
  if group ~= '' then
    names[#names + 1] = 'fairness_key=' .. group
  end
  for i = 1, #limits, 3 do
    local _, space = string.find(limits[i], event_type .. ' ', 1, true)
    names[#names + 1] = space and string.sub(limits[i], space + 1)
  end
  local found = redis.call('HMGET', stream .. ':paused', unpack(names))
  for i, name in ipairs(names) do
    if found[i] then
      return name
    end
  end
end

-- The limiter at which a request has to wait before it can begin: name, count, interval; nil if
-- none. `limits` has three values for each: name, count, and the interval in ms of a rate.
local function refused_by(call, stream, key, record, limits)
  local paused = paused_for(call, stream, record, limits)
  if paused then
    return 'paused ' .. paused, 0, 0
  end
  local held = lines(record.permits)
  for i = 1, #limits, 3 do
    local name, count, interval = limits[i], tonumber(limits[i + 1]), tonumber(limits[i + 2])
    local base = limiter_key(stream, name)
    local has_permit = contains(held, name) and redis.call('ZSCORE', base .. ':permits', key)
    if not has_permit then
      local has_queue = redis.call('EXISTS', base) == 1
      if has_queue then
        redis.call('HSET', base, 'count', count, 'interval', interval) -- what the newest handler says
        open_limiter(call, stream, name)
        has_queue = redis.call('EXISTS', base) == 1
      end
      if has_queue or free_of(call, stream, name, count, interval) < 1 then
        return name, count, interval
      end
    end
  end
end

-- Take the permits before the one named `last` for a request that waits there, or all permits of
-- one that begins: its tokens are spent now.
local function take_permits(call, stream, key, record, limits, last, until_ms)
  local now = now_ms(call)
  for i = 1, #limits, 3 do
    local name, interval = limits[i], tonumber(limits[i + 2])
    if name == last then
      return
    end
    if last or kind_of(name) ~= 'rate' then
      add_permit(call, stream, key, record, name, until_ms)
    else
      local base = limiter_key(stream, name)
      local arrival = arrival_of(base, now) + interval
      redis.call('SET', base .. ':next', string.format('%.3f', arrival), 'PX', int(math.ceil(arrival - now) + 1))
      leave_limiters(call, stream, key, record, name)
    end
  end
end

local NO_LIMITS = {}

-- Return the permit to be in the stream: the request has begun, or waits elsewhere.
local function leave_turn(call, stream, key, record)
  leave_limiters(call, stream, key, record, 'turn')
  write_state(key, record)
end

-- Let a request wait in the queue of the limiter that refuses it. Its delivery ends without a claim.
local function limited(call, stream, key, record, limits, group, entry_id, name, count, interval)
  redis.call('XACK', stream, group, entry_id)
  redis.call('XDEL', stream, entry_id)
  redis.call('ZREM', stream .. ':open', key) -- at once: it may go on in this call
  record.status, record.token, record.consumer, record.lease_until = 'pending', '', '', 0
  if record.attempts == 0 then
    record.payload_sent = redis.call('HGET', key, 'payload')
  end
  if kind_of(name) == 'paused' then
    leave_limiters(call, stream, key, record)
  else
    take_permits(call, stream, key, record, limits, name, now_ms(call) + RESERVED_MS)
    leave_limiters(call, stream, key, record, 'turn')
  end
  wait_at(call, stream, key, record, name, count, interval)
  local at = redis.call('ZSCORE', stream .. ':limits', name)
  local left = at and tonumber(at) - now_ms(call) or math.huge
  return { 'limited', name, left < math.huge and int(math.max(0, left)) or '' }
end
