#!lua name=@LIBRARY@

-- The server-side transitions. Each is one function: it takes effect completely or not at all.
--
-- A request's record is the source of truth; streams only carry what it says. Every transition
-- checks all that it needs before its first write: a refused call changes nothing. Times are the
-- server's, in milliseconds.
--
-- The epoch of a record is its fencing token: it grows with every claim, and a write that
-- carries the token of an older claim is refused. It is at least the time of the claim: a server
-- that lost a claim in a failover still gives the next one a higher epoch.

local TERMINAL = { completed = true, failed = true, cancelled = true }
local STAGE = { start = true, progress = true, completed = true, failed = true, cancelled = true }
local VERSION = '@SCHEMA@'
-- The layout of records that this release writes; a record of a newer one is refused.
local LAYOUT, LAYOUT_TEXT = @LAYOUT@, '@LAYOUT@'

-- Dead letters kept for each command stream.
local DEAD_LETTERS = 10000
-- How long a wake-up list outlives its last entry.
local WAKEUP_TTL_MS = 60000
-- This many values fit easily on the interpreter's stack.
local STACK_LIMIT = 4000

-- The state of one call: its keys, its time, the types of the keys that it has checked, and the
-- writes that its requests share. `flush` does these writes once, at the end of the call.
local function new_call(keys)
  return { keys = keys, types = {}, ttls = {}, opened = {}, ended = {}, acked = {}, emitted = {}, windows = {},
    kept = {}, paused = {} }
end

local function int(number)
  return string.format('%d', number)
end

local function now_ms(call)
  if not call.now then
    local time = redis.call('TIME')
    call.now = time[1] * 1000 + math.floor(time[2] / 1000)
    call.now_text = int(call.now)
  end
  return call.now
end

-- The id of the request that a record belongs to. All records of a call have one namespace.
local function id_of(call, key)
  local at = call.id_at
  if not at then
    at = string.find(key, 'request:', 1, true) + 8
    call.id_at, call.prefix = at, string.sub(key, 1, at - 9)
  end
  return string.sub(key, at)
end

-- The namespace of the keys of a call, from one of its records.
local function prefix_of(call, key)
  if not call.prefix then
    id_of(call, key)
  end
  return call.prefix
end

-- The epoch of a claim that comes after the one with `epoch`.
local function next_epoch(call, epoch)
  return math.max(epoch + 1, now_ms(call))
end

-- Add values to the list with this name.
local function append(lists, name, first, second)
  local list = lists[name]
  if not list then
    lists[name] = { first, second }
    return
  end
  local count = #list
  list[count + 1], list[count + 2] = first, second
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
  if not text or text == '' then
    return {}
  end
  if not string.find(text, '\n', 1, true) then
    return { text }
  end
  local out = {}
  for line in string.gmatch(text, '[^\n]+') do
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
