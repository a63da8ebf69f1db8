-- How a function runs: its requests in one call, and the writes that they share.

-- Do the writes that the requests of a call share.
local function flush(call)
  for stream, ttl_ms in pairs(call.ttls) do
    -- A stream that is created again after it expired has no TTL, so every write sets it.
    redis.call('PEXPIRE', stream, ttl_ms)
  end
  for stream, members in pairs(call.opened) do
    redis.call('ZADD', stream .. ':open', unpack(members))
  end
  for stream, members in pairs(call.ended) do
    redis.call('ZREM', stream .. ':open', unpack(members))
  end
  write_windows(call)
  write_kept(call)
  for stream, group_and_ids in pairs(call.acked) do
    redis.pcall('XACK', stream, unpack(group_and_ids))
  end
  if #call.emitted > 0 then
    local counter = redis.call('HINCRBY', call.prefix .. 'sagastream:instance', 'emitted', #call.emitted)
    for _, answer in ipairs(call.emitted) do
      answer[3] = counter
    end
  end
end

-- Refuse a call while the slot of its keys is being migrated: what has moved already cannot be
-- written here, and the call would be torn. There is no key with this name; only a node that has
-- the whole slot says so. Only keys with a hash tag can be together in a cluster.
local function require_owned(key)
  local is_in_cluster = key and string.find(key, '{', 1, true) -- a listener without claims renews none
  local found = is_in_cluster and redis.pcall('EXISTS', key .. ':none')
  if type(found) == 'table' and string.find(found.err, 'non local key', 1, true) then
    error({ err = 'TRYAGAIN the slot of ' .. key .. ' is being migrated' })
  end
end

local function register(name, transition, flags)
  local function callback(keys, args)
    require_owned(keys[1])
    local call = new_call(keys)
    local done, answer = pcall(transition, call, keys, args)
    flush(call)
    if not done then
      error(answer, 0)
    end
    return answer
  end
  redis.register_function({ function_name = '@LIBRARY@_' .. name, callback = callback, flags = flags or {} })
end

-- Make a function that runs a transition for many requests in one call. The transition takes
-- effect completely or not at all for each request. A refused request does not touch the others:
-- its answer is {'error', message}.
-- KEYS record and stream of each request. ARGV the arguments that all requests share, then for
-- each request the number of its arguments, and these arguments. The transition gets all of
-- them, and the places before its first and of its last one. Returns a list with an answer for each.
local function batched(transition, shared_count)
  return function(call, keys, args)
    local answers, at = {}, shared_count + 1
    call.is_batch = true
    now_ms(call)
    for i = 1, #keys, 2 do
      local last = at + args[at]
      local done, answer = pcall(transition, call, keys[i], keys[i + 1], args, at, last)
      if not done then
        answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }
      end
      answers[#answers + 1] = answer
      at = last + 1
    end
    return answers
  end
end

-- A function that begins, keeps, ends or frees work that the server has already must run even when
-- its memory is full: only emits are refused, and readers that would make a stream.
local WHEN_FULL = { 'allow-oom' }
