-- Requests that wait for a time: those that are due are let in by the next sweep.

-- The largest number of requests that one sweep lets in, for each reason to wait.
local DUE_LIMIT = 100
-- How long a due request of a newer release is left to it.
local NEWER_PAUSE_MS = 1000

-- Let in the requests whose deadline passes while they wait for a limiter: they fail.
local function move_late(call, stream)
  local deadlines = stream .. ':deadlines'
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', int(now_ms(call)), 'LIMIT', 0, DUE_LIMIT)) do
    local is_readable, record = pcall(read_record, call, key)
    if is_readable and record.status == 'pending' and record.waits ~= '' then
      leave_queue(stream, key, record)
      add_command(call, stream, key, record)
    end
    redis.call('ZREM', deadlines, key)
  end
  return tonumber(redis.call('ZRANGE', deadlines, 0, 0, 'WITHSCORES')[2] or math.huge)
end

-- Take over the requests that a release with another index has noted to be due later.
local function take_over_delayed(call, stream, later)
  local noted = redis.call('ZRANGE', stream .. ':delayed', 0, DUE_LIMIT - 1, 'WITHSCORES')
  for i = 1, #noted, 2 do
    add_paged(call, later, noted[i + 1], noted[i])
    redis.call('ZREM', stream .. ':delayed', noted[i])
  end
end

-- Let in the requests that are due, and those whose limiter must be looked at. Returns how many ms
-- later the next one is, or '' if none waits.
local function move_due(call, stream)
  local later, now = stream .. ':later', now_ms(call)
  take_over_delayed(call, stream, later)
  for _, member in ipairs(first_paged(call, later, DUE_LIMIT)) do
    local score, key = unpack(member)
    if score > now then
      break
    end
    local is_readable, record = pcall(read_record, call, key)
    if not is_readable then
      add_paged(call, later, now + NEWER_PAUSE_MS, key) -- a newer release moves its own
    elseif record.status == 'pending' and record.due > 0 then
      record.due = 0
      enter(call, stream, key, record) -- if it fails, the index still has the request
    end
    remove_paged(call, later, score, key)
  end
  local limits = stream .. ':limits'
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', limits, '-inf', int(now), 'LIMIT', 0, DUE_LIMIT)) do
    open_limiter(call, stream, name)
  end
  local next_one = first_paged(call, later, 1)[1]
  local first = math.min(next_one and next_one[1] or math.huge, move_late(call, stream), tonumber(redis.call('ZRANGE', limits, 0, 0, 'WITHSCORES')[2] or math.huge))
  return first < math.huge and int(math.max(0, first - now)) or ''
end
