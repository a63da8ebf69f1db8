-- What outlives an ended request: its id, when its result has gone, and the order of kept results.

-- An id is remembered in a window, a hash that is dropped whole. This many of them share the time
-- for which an id is remembered.
local WINDOWS = 6
local SHORTEST_WINDOW_MS = 1000
-- How long windows outlive their time if no listener drops them.
local WINDOW_GRACE_MS = 86400000
-- This makes a new window a hash table at once: finding one of a few hundred ids in a list is slow.
local ABOUT = 'How requests ended: the first letter of the status, the time in seconds (4 bytes), the digest.'
-- This many bytes of a digest tell two commands of one id apart.
local SHORT_DIGEST = 4
-- The largest number of results that one call drops.
local DROP_LIMIT = 1000

-- How long results and ids are kept, from the shared arguments of a call. A function that says
-- how many results are kept has two more arguments; '' is no limit.
local function retention_of(call, args, first, has_limits)
  if not call.retention then
    call.retention = {
      result_ms = args[first], remember_ms = tonumber(args[first + 1]),
      max_count = has_limits and tonumber(args[first + 2]), max_bytes = has_limits and tonumber(args[first + 3]),
    }
  end
  return call.retention
end

-- Note how a request ended; `flush` writes it.
local function remember(call, key, status, digest, retention)
  local request_id = id_of(call, key)
  if not call.window then
    local width = math.max(SHORTEST_WINDOW_MS, math.ceil(retention.remember_ms / WINDOWS))
    local until_ms = (math.floor((now_ms(call) + retention.remember_ms) / width) + 1) * width
    call.window = call.prefix .. 'remembered:' .. int(until_ms)
    call.ended_at = struct.pack('>I4', math.floor(call.now / 1000))
  end
  append(call.windows, call.window, request_id, LETTER_OF[status] .. call.ended_at .. string.sub(digest, 1, SHORT_DIGEST))
end

local function write_windows(call)
  for window, ids in pairs(call.windows) do
    if redis.call('EXISTS', window) == 0 then
      local until_ms = tonumber(string.match(window, '%d+$'))
      local gone_ms, registry = until_ms + WINDOW_GRACE_MS, call.prefix .. 'remembered'
      redis.call('HSET', window, '', ABOUT)
      redis.call('PEXPIREAT', window, int(gone_ms))
      redis.call('ZADD', registry, int(until_ms), window)
      if gone_ms > redis.call('PEXPIRETIME', registry) then
        redis.call('PEXPIREAT', registry, int(gone_ms))
      end
    end
    redis.call('HSET', window, unpack(ids))
  end
end

-- Drop the windows whose time is over.
local function drop_windows(call, registry)
  for _, window in ipairs(redis.call('ZRANGEBYSCORE', registry, '-inf', int(now_ms(call)))) do
    redis.call('UNLINK', window)
    redis.call('ZREM', registry, window)
  end
end

-- Find ids in the windows, all those of a batch at once.
local function recall(call, key)
  local ids = { id_of(call, key) }
  call.known_windows = call.known_windows or redis.call('ZRANGE', call.prefix .. 'remembered', 0, -1)
  if call.is_batch and not call.found then
    for i = 1, #call.keys, 2 do
      if call.keys[i] ~= key then
        ids[#ids + 1] = id_of(call, call.keys[i])
      end
    end
  end
  call.found = call.found or {}
  for _, id in ipairs(ids) do
    call.found[id] = false
  end
  for _, window in ipairs(call.known_windows) do
    for i, value in ipairs(redis.call('HMGET', window, unpack(ids))) do
      call.found[ids[i]] = value or call.found[ids[i]]
    end
  end
end

-- How a request ended whose result is no longer kept: its status, the time in seconds and the
-- start of its digest; nil if it is not remembered.
local function remembered(call, key)
  local request_id = id_of(call, key)
  if not call.found or call.found[request_id] == nil then
    recall(call, key)
  end
  local value = call.found[request_id]
  if not value then
    return nil
  end
  local status = STATUS_OF[string.sub(value, 1, 1)]
  return { status = status, at_s = struct.unpack('>I4', string.sub(value, 2, 5)), digest = string.sub(value, 6) }
end

local function answer_expired(memory)
  return { 'expired', memory.status, int(memory.at_s) }
end

-- Note the result of a request in the order in which results are dropped; `flush` writes it.
local function keep(call, stream, key, size, retention)
  local list = stream .. ':kept'
  local kept = call.kept[list]
  if not kept then
    kept = { retention = retention, bytes = 0, members = {} }
    call.kept[list] = kept
  end
  kept.bytes = kept.bytes + size
  kept.members[#kept.members + 1] = int(size) .. ' ' .. key
end

-- Drop the oldest kept results of a stream as long as `is_surplus` says so.
local function drop_kept(list, is_surplus)
  for _ = 1, DROP_LIMIT do
    local oldest = redis.call('LINDEX', list, 0)
    if not oldest then
      return
    end
    local size, key = string.match(oldest, '^(%d+) (.*)$')
    local letter = redis.pcall('GETRANGE', key, LETTER_AT - 1, LETTER_AT - 1)
    local is_there = type(letter) == 'string' and STATUS_OF[letter] ~= nil
    if is_there and not is_surplus() then
      return
    end
    redis.call('LPOP', list)
    redis.call('DECRBY', list .. ':bytes', size)
    if is_there then
      redis.call('UNLINK', key)
    end
  end
end

local function write_kept(call)
  for list, kept in pairs(call.kept) do
    local retention = kept.retention
    redis.call('RPUSH', list, unpack(kept.members))
    redis.call('INCRBY', list .. ':bytes', int(kept.bytes))
    drop_kept(list, function()
      return (retention.max_count and redis.call('LLEN', list) > retention.max_count)
        or (retention.max_bytes and tonumber(redis.call('GET', list .. ':bytes')) > retention.max_bytes)
    end)
    redis.call('PEXPIRE', list, int(retention.remember_ms))
    redis.call('PEXPIRE', list .. ':bytes', int(retention.remember_ms))
  end
end
