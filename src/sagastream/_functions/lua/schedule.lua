-- Schedules: put, take, fire, pause, resume, drop.
--
-- A schedule is a hash: its definition as JSON (`spec`), the oldest due time that was neither fired
-- nor skipped (`due`), what the last firing did, and counts. A sorted set of the command stream has
-- its name by the time at which a listener should take it; `inf` if none should.

local NEVER = '+inf'
-- A firing that waits for the end of the one before is taken again after this time.
local WAIT_MS = 500

-- When a schedule is taken: never without a due time, or while it is paused.
local function taken_at(at, paused)
  return (at == '' or paused) and NEVER or at
end

local function require_schedule(call, schedule, index)
  require_type(call, schedule, 'hash')
  require_type(call, index, 'zset')
end

-- put_schedule: write a schedule. The same definition again changes nothing; a declaration in code
-- changes nothing until the declaration itself has changed, so that what an operator has edited stays.
-- Race: many listeners declare it at their start; the first one writes it.
-- KEYS schedule, index of its stream. ARGV name, layout, definition, '1' if it is declared in code,
-- due time and time of its firing, '' if it is never due.
-- Returns {'set'} | {'kept'}.
local function put_schedule(call, keys, args)
  local schedule, index = keys[1], keys[2]
  local name, layout, spec, declared, due, at = unpack(args, 1, 6)
  require_schedule(call, schedule, index)
  local old = redis.call('HMGET', schedule, 'layout', 'spec', 'declared', 'paused', 'index')
  if old[1] and tonumber(old[1]) > tonumber(layout) then
    error({ err = 'LAYOUT ' .. old[1] .. ' ' .. layout })
  end
  if declared == '1' and old[3] == spec then
    return { 'kept' }
  end
  if declared == '1' then
    redis.call('HSET', schedule, 'declared', spec)
  end
  if old[2] == spec then
    return { 'kept' }
  end
  if old[5] and old[5] ~= index then
    redis.call('ZREM', old[5], name)
  end
  redis.call('HSET', schedule, 'layout', layout, 'spec', spec, 'index', index, 'due', due, 'at', at)
  redis.call('ZADD', index, taken_at(at, old[4]), name)
  return { 'set' }
end

-- take_schedules: take the schedules that are due, and let others take them after `again_ms`.
-- Race: many listeners ask at once; each schedule goes to one of them. If that one dies, another
-- one takes it, and `fire` compares the due time.
-- KEYS the indexes of the streams. ARGV again_ms, limit, the prefix of the namespace.
-- Returns {now, ms until the next one is due or '', then {name, layout, definition, due} of each}.
local function take_schedules(call, keys, args)
  local now, first, out = now_ms(call), nil, {}
  for _, index in ipairs(keys) do
    require_type(call, index, 'zset')
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', int(now), 'LIMIT', 0, args[2])) do
      local found = redis.call('HMGET', args[3] .. 'schedule:' .. name, 'layout', 'spec', 'due', 'index')
      if found[2] and found[4] == index then
        redis.call('ZADD', index, int(now + args[1]), name)
        out[#out + 1] = { name, found[1] or '', found[2], found[3] or '' }
      else
        redis.call('ZREM', index, name)
      end
    end
    local next_at = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2]
    if next_at and next_at ~= 'inf' then
      first = math.min(first or math.huge, tonumber(next_at))
    end
  end
  return { call.now_text, first and int(math.max(0, first - now)) or '', unpack(out) }
end

-- Whether the request of a schedule's last firing has not ended.
local function is_open(call, key)
  local record = read_record(call, key)
  return record.status and not TERMINAL[record.status]
end

-- fire: emit the command of a due schedule as any other, and set its next due time.
-- Race: two listeners have taken it, or the answer was lost and the call is repeated: only the one
-- that names the current due time fires it. The id of the request follows from the due time, so
-- that not even a restored schedule fires a time twice.
-- KEYS schedule, index, record and stream of the command. ARGV result_ms, remember_ms, name,
-- definition, due time ('' to fire now, at an operator's request), next due time and time of its
-- firing ('' for none), '1' if this due time is missed, overlap policy, arguments of `emit`...
-- Returns {'fired', entry_id, counter} | {'moved'} another one was faster, or it was edited or paused |
-- {'missed'} | {'skipped', request id of the one before} | {'waits', request id of the one before} |
-- {'refused', 'conflict' or how it had ended}: a request with this id is known.
local function fire(call, keys, args)
  local schedule, index, key, stream = unpack(keys, 1, 4)
  local name, spec, due, next_due, next_at, missed, overlap = unpack(args, 3, 9)
  require_schedule(call, schedule, index)
  local prefix = prefix_of(call, key)
  local known = redis.call('HMGET', schedule, 'spec', 'due', 'paused', 'last_request')
  local is_manual = due == ''
  if known[1] ~= spec or (not is_manual and (known[2] ~= due or known[3])) then
    return { 'moved' }
  end
  local answer, previous = { 'missed' }, nil
  if missed ~= '1' then
    local last = known[4]
    if last and last ~= id_of(call, key) and is_open(call, prefix .. 'request:' .. last) then
      previous = last
    end
    if previous and overlap == 'queue' and not is_manual then
      redis.call('ZADD', index, int(now_ms(call) + WAIT_MS), name)
      return { 'waits', previous }
    elseif previous and overlap ~= 'replace' then
      answer = { 'skipped', previous }
    else
      local own = args
      if previous then
        own = slice(args, 1)
        own[#own + 1], own[#own + 2] = 'supersedes', prefix .. 'request:' .. previous
      end
      answer = emit(call, key, stream, own, 9, #own)
      if answer[1] == 'new' then
        answer[1] = 'fired'
      elseif answer[1] ~= 'known' then
        answer = { 'refused', answer[1] == 'expired' and answer[2] or answer[1] }
      end
    end
  end
  if answer[1] ~= 'known' then
    redis.call('HINCRBY', schedule, answer[1], 1)
  end
  if answer[1] == 'known' or answer[1] == 'fired' then
    answer[1] = 'fired'
    redis.call('HSET', schedule, 'last_request', id_of(call, key), 'last_fired', int(now_ms(call)))
  end
  if not is_manual then
    redis.call('HSET', schedule, 'due', next_due, 'at', next_at)
    redis.call('ZADD', index, taken_at(next_at, nil), name)
  end
  return answer
end

-- pause_schedule, resume_schedule, drop_schedule: let no listener take a schedule, let them take it
-- again from a due time on, delete it.
-- Race: a listener has taken it; `fire` checks that it is there and not paused.
-- KEYS schedule, index. ARGV name, and to resume the definition, due time and time of its firing.
-- Returns {'ok'} | {'none'} there is no such schedule | {'moved'} it was edited meanwhile.
local function pause_schedule(call, keys, args)
  require_schedule(call, keys[1], keys[2])
  if redis.call('EXISTS', keys[1]) == 0 then
    return { 'none' }
  end
  redis.call('HSET', keys[1], 'paused', int(now_ms(call)))
  redis.call('ZADD', keys[2], NEVER, args[1])
  return { 'ok' }
end

local function resume_schedule(call, keys, args)
  local name, spec, due, at = unpack(args, 1, 4)
  require_schedule(call, keys[1], keys[2])
  local known = redis.call('HMGET', keys[1], 'spec', 'paused')
  if not known[1] then
    return { 'none' }
  end
  if known[1] ~= spec then
    return { 'moved' }
  end
  if known[2] then
    redis.call('HDEL', keys[1], 'paused')
    redis.call('HSET', keys[1], 'due', due, 'at', at)
    redis.call('ZADD', keys[2], taken_at(at, nil), name)
  end
  return { 'ok' }
end

local function drop_schedule(call, keys, args)
  require_schedule(call, keys[1], keys[2])
  redis.call('ZREM', keys[2], args[1])
  return { redis.call('DEL', keys[1]) == 1 and 'ok' or 'none' }
end

register('put_schedule', put_schedule)
register('take_schedules', take_schedules, WHEN_FULL)
register('fire', fire)
register('pause_schedule', pause_schedule, WHEN_FULL)
register('resume_schedule', resume_schedule, WHEN_FULL)
register('drop_schedule', drop_schedule, WHEN_FULL)
