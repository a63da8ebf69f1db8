-- Events that sagas wait for: send_event, await_event.
--
-- An event is a hash: its payload, and the sagas that wait for it, each with the sorted set of open
-- sagas of its declaration.

local WAITS = 'waits:'

-- Keep a key for at least this time.
local function keep_for(key, ttl_ms)
  if redis.call('PTTL', key) < tonumber(ttl_ms) then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end

-- send_event: keep an event, and let runners claim the sagas that wait for it now.
-- Race: two senders; the first payload stays, and the second one is told so if its own differs.
-- KEYS event. ARGV payload, ms that it is kept.
-- Returns {'sent', how many sagas waited} | {'known'} | {'conflict'}: it was sent with another payload.
local function send_event(call, keys, args)
  local key, payload, ttl_ms = keys[1], args[1], args[2]
  require_type(call, key, 'hash')
  local known = redis.call('HGET', key, 'payload')
  if known then
    return { known == payload and 'known' or 'conflict' }
  end
  local flat, count = redis.call('HGETALL', key), 0
  redis.call('HSET', key, 'payload', payload, 'at', int(now_ms(call)))
  keep_for(key, ttl_ms)
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 1, #WAITS) == WAITS then
      local saga_id, open = string.sub(flat[i], #WAITS + 1), flat[i + 1]
      redis.call('ZADD', open, 'XX', call.now_text, saga_id)
      local list = string.gsub(open, ':open$', ':woken')
      if redis.call('EXISTS', list) == 0 then
        wake(list)
      end
      count = count + 1
    end
  end
  return { 'sent', count }
end

-- await_event: read an event, or note that a saga waits for it; the saga is then due at its timeout.
-- Race: the event comes between the read and the note; so both are one step.
-- KEYS event, open sagas. ARGV saga id, ms until the timeout, ms that the note is kept.
-- Returns {'event', payload} | {'waits'}.
local function await_event(call, keys, args)
  local key, open, saga_id, due_ms, ttl_ms = keys[1], keys[2], args[1], args[2], args[3]
  require_type(call, key, 'hash')
  require_type(call, open, 'zset')
  local payload = redis.call('HGET', key, 'payload')
  if payload then
    return { 'event', payload }
  end
  redis.call('HSET', key, WAITS .. saga_id, open)
  keep_for(key, ttl_ms)
  redis.call('ZADD', open, 'XX', int(now_ms(call) + tonumber(due_ms)), saga_id)
  return { 'waits' }
end

register('send_event', send_event)
register('await_event', await_event, WHEN_FULL)
