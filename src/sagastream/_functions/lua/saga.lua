-- Sagas: the journal's compare-and-set, and which sagas are due.

-- The time in seconds with three decimals, as JSON.
local function seconds(now)
  return string.format('%d.%03d', math.floor(now / 1000), now % 1000)
end

-- Give a stream the memory that its entries need: its last block has room for more of them.
local function compact(stream, ttl_ms)
  local packed = redis.call('DUMP', stream)
  if packed and redis.pcall('RESTORE', stream, ttl_ms, packed, 'REPLACE').err then
    redis.call('PEXPIRE', stream, ttl_ms) -- this user may not restore keys: it stays as large as it is
  end
end

-- Remember the ids of an ended saga's requests, and let their results expire: the records from the
-- seventh key on. A record without an end, or of a handler that may still run, is kept longer.
local function forget_results(call, keys, short_ms, long_ms, retention)
  for i = 7, #keys do
    local is_readable, record = pcall(read_record, call, keys[i])
    if is_readable and TERMINAL[record.status] then
      remember(call, keys[i], record.status, command_of(record).digest, retention)
    end
    redis.call('PEXPIRE', keys[i], record.is_packed and short_ms or long_ms)
  end
end

-- journal: replace a saga's journal if it is still at the expected version, and add an entry to the
-- stream of its moves. Each byte 0x01 in the journal becomes the server's time. An open saga is in
-- a sorted set by the time at which a runner should claim it, an ended one by the time at which it
-- expires. The results of its requests go with its moves, and their ids stay remembered.
-- Race: two runners read the same version; the second one's move is refused.
-- KEYS saga, its stream, open, ended, stuck, replies and records of an ended saga... ARGV expected
-- version, journal, saga id, 'open' | 'ended' | 'stuck', ms until it is due or expires, ms that the
-- moves of an ended saga are kept, result_ms, remember_ms, fields of the stream's entry...
-- Returns {'ok', version, time} | {'moved', version, time}.
local function journal(call, keys, args)
  local saga, stream, open, ended, stuck = unpack(keys, 1, 5)
  local expected, text, saga_id, state, delay_ms, moves_ms = unpack(args, 1, 6)
  require_type(call, saga, 'hash')
  require_type(call, stream, 'stream')
  for i = 3, 5 do
    require_type(call, keys[i], 'zset')
  end
  local version = redis.call('HGET', saga, 'version') or '0'
  local now = now_ms(call)
  if version ~= expected then
    return { 'moved', version, seconds(now) }
  end
  text = string.gsub(text, '\1', seconds(now))
  version = int(tonumber(version) + 1)
  redis.call('HSET', saga, 'version', version, 'journal', text)
  local move = redis.call('XADD', stream, '*', 'version', version, 'timestamp', int(now), unpack(slice(args, 9)))
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
    if tonumber(moves_ms) < tonumber(delay_ms) then
      redis.call('DEL', stream) -- who waits for the end needs the last one
      redis.call('XADD', stream, move, 'version', version, 'timestamp', int(now), unpack(slice(args, 9)))
    end
    local short_ms = int(math.min(tonumber(moves_ms), tonumber(delay_ms)))
    compact(stream, short_ms)
    forget_results(call, keys, short_ms, delay_ms, retention_of(call, args, 7))
    redis.call('PEXPIRE', keys[6], delay_ms)
    compact(keys[6], delay_ms)
  end
  return { 'ok', version, seconds(now) }
end

-- take_due: take open sagas whose time has come, and postpone them.
-- Race: several runners call this at once; each saga goes to one of them.
-- KEYS open. ARGV limit, ms until they are due again. Returns {'ok', saga ids...}.
local function take_due(call, keys, args)
  require_type(call, keys[1], 'zset')
  local now = now_ms(call)
  local saga_ids = redis.call('ZRANGEBYSCORE', keys[1], '-inf', int(now), 'LIMIT', 0, args[1])
  for _, saga_id in ipairs(saga_ids) do
    redis.call('ZADD', keys[1], int(now + tonumber(args[2])), saga_id)
  end
  return { 'ok', unpack(saga_ids) }
end

-- heartbeat: postpone the due time of sagas that a process works on.
-- Race: a saga that has ended meanwhile is not in the set, and must not be added again: XX.
-- KEYS open. ARGV ms until they are due, saga ids... Returns {'ok'}.
local function heartbeat(call, keys, args)
  require_type(call, keys[1], 'zset')
  local at = int(now_ms(call) + tonumber(args[1]))
  for i = 2, #args do
    redis.call('ZADD', keys[1], 'XX', at, args[i])
  end
  return { 'ok' }
end

register('journal', journal, WHEN_FULL)
register('take_due', take_due, WHEN_FULL)
register('heartbeat', heartbeat, WHEN_FULL)
