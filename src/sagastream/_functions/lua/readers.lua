-- Readers of reply streams, each with its own consumer group: join, leave.

-- join: make a reader's group at 0, so that it misses nothing; destroy the groups of dead readers.
-- Race: two readers of one group would each get half of the replies; every reader has its own.
-- KEYS stream. ARGV group, ttl_ms, stale_ms, prefix of readers' groups. Returns {'ok'}.
local function join(call, keys, args)
  local stream, group, ttl_ms, stale_ms, prefix = keys[1], args[1], args[2], tonumber(args[3]), args[4]
  require_type(call, stream, 'stream')
  local existed = redis.call('EXISTS', stream) == 1
  if existed then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local name = flat[2]
      if string.sub(name, 1, #prefix) == prefix and name ~= group then
        local consumers = redis.call('XINFO', 'CONSUMERS', stream, name)
        local idle_ms = #consumers == 0 and 0 or math.huge
        for _, consumer in ipairs(consumers) do
          for i = 1, #consumer, 2 do
            if consumer[i] == 'idle' then
              idle_ms = math.min(idle_ms, consumer[i + 1])
            end
          end
        end
        if idle_ms > stale_ms then
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

-- leave: destroy the reader's group, and the stream if it has no entry and no other reader.
-- Race: a writer may come meanwhile; a stream that has an entry stays.
-- KEYS stream. ARGV group. Returns {'ok'}.
local function leave(_, keys, args)
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

register('join', join)
register('leave', leave, WHEN_FULL)
