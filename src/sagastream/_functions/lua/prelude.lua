#!lua name=@LIBRARY@

-- The server-side transitions. Each is one function: it takes effect completely or not at all.
--
-- A request's record is a hash and the source of truth; streams only carry what it says. Its
-- payload, trace and timestamp are the command's until the request ends, and the terminal
-- reply's from then on. Every transition checks all that it needs before its first write: a
-- refused call changes nothing. Times are the server's, in milliseconds.
--
-- The epoch of a record is its fencing token: it grows with every claim, and a write that
-- carries the token of an older claim is refused.

local TERMINAL = { completed = true, failed = true, cancelled = true }
local STAGE = { start = true, progress = true, completed = true, failed = true, cancelled = true }
local VERSION = '@SCHEMA@'
-- The layout of records that this release writes; a record of a newer one is refused.
local LAYOUT = @LAYOUT@

-- Entries kept in a request's own stage log.
local STAGE_LOG_LENGTH = 1000
-- The largest number of commands that one sweep requeues.
local REQUEUE_LIMIT = 100
-- How long a wake-up list outlives its last entry.
local WAKEUP_TTL_MS = 60000
-- This many values fit easily on the interpreter's stack.
local STACK_LIMIT = 4000

-- The state of one call: its time, the types of the keys that it has checked, and the writes that
-- its requests share. `flush` does these writes once, at the end of the call.
local function new_call()
  return { now = nil, types = {}, ttls = {}, opened = {}, ended = {}, acked = {}, emitted = {} }
end

local function now_ms(call)
  if not call.now then
    local time = redis.call('TIME')
    call.now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return call.now
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

-- Do the writes that the requests of a call share.
local function flush(call)
  for stream, ttl_ms in pairs(call.ttls) do
    -- A stream that is created again after it expired has no TTL, so every write sets it.
    redis.call('PEXPIRE', stream, ttl_ms)
  end
  for key, members in pairs(call.opened) do
    redis.call('ZADD', key, unpack(members))
  end
  for key, members in pairs(call.ended) do
    redis.call('ZREM', key, unpack(members))
  end
  for stream, group_and_ids in pairs(call.acked) do
    redis.pcall('XACK', stream, unpack(group_and_ids))
  end
  for instance, count in pairs(call.emitted) do
    redis.call('HINCRBY', instance, 'emitted', count)
  end
end

local function ack(call, stream, group, entry_id)
  if call.acked[stream] then
    append(call.acked, stream, entry_id)
  else
    call.acked[stream] = { group, entry_id }
  end
end

local function require_type(call, key, wanted)
  local actual = call.types[key]
  if not actual then
    actual = redis.call('TYPE', key).ok
    call.types[key] = actual
  end
  if actual ~= 'none' and actual ~= wanted then
    error({ err = 'WRONGTYPE ' .. key .. ' is a ' .. actual .. ', expected a ' .. wanted })
  end
end

local function slice(list, first, last)
  last = last or #list
  if last - first < STACK_LIMIT then
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

local function is_newer(record)
  return record.layout and tonumber(record.layout) > LAYOUT
end

local function require_layout(record)
  if is_newer(record) then
    error({ err = 'LAYOUT ' .. record.layout .. ' ' .. LAYOUT })
  end
  return record
end

-- Some fields of a record, `layout` among them; a missing one is nil.
local function read_fields(key, names)
  local values = redis.call('HMGET', key, unpack(names))
  local record = {}
  for i = 1, #names do
    record[names[i]] = values[i] or nil
  end
  return require_layout(record)
end

local function read_record(key)
  local flat = redis.call('HGETALL', key)
  local record = {}
  for i = 1, #flat, 2 do
    record[flat[i]] = flat[i + 1]
  end
  return require_layout(record)
end

-- The value of a field in a list of names and values.
local function value_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return fields[i + 1]
    end
  end
  return ''
end

-- Add an entry; returns its id, or the error as a table.
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

-- Push to the list on which a listener's lease keeper waits, so that it checks its claims now.
local function wake(list)
  redis.call('RPUSH', list, '1')
  redis.call('PEXPIRE', list, WAKEUP_TTL_MS)
end

-- Make a function that runs a transition for many requests in one call. The transition takes
-- effect completely or not at all for each request. A refused request does not touch the others:
-- its answer is {'error', message}.
-- KEYS record and stream of each request. ARGV the arguments that all requests share, then for
-- each request the number of its arguments, and these arguments. Returns a list with an answer
-- for each.
local function batched(transition, shared_count)
  return function(call, keys, args)
    local answers, at = {}, shared_count + 1
    for i = 1, #keys, 2 do
      local last = at + tonumber(args[at])
      local own = slice(args, at + 1, last)
      local done, answer = pcall(transition, call, keys[i], keys[i + 1], args, own)
      if not done then
        answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }
      end
      answers[#answers + 1] = answer
      at = last + 1
    end
    return answers
  end
end

local function register(name, transition, flags)
  local function callback(keys, args)
    local call = new_call()
    local done, answer = pcall(transition, call, keys, args)
    flush(call)
    if not done then
      error(answer, 0)
    end
    return answer
  end
  redis.register_function({ function_name = '@LIBRARY@_' .. name, callback = callback, flags = flags or {} })
end

-- A function that begins, keeps, ends or frees work that the server has already must run even when
-- its memory is full: only emits are refused, and readers that would make a stream.
local WHEN_FULL = { 'allow-oom' }
