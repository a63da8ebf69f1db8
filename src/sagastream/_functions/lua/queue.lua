-- Fair queues: who of those that wait goes on next.
--
-- A queue has three classes of priority, and in each class the groups of its requests take turns by
-- their weights (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). Requests of one
-- group go in the order in which they came. The classes take turns, too, so that none starves.
--
-- A queue is a sorted set of records for each class, `NAME:queue:CLASS`, by start tag, and fields
-- of the hash NAME: `vCLASS`, the tag of the last one that went on; `k`, class and group: the
-- tag at which the next one of this group starts; `s`, the last size of the hash after a cleaning.

-- The shares of the classes high, normal and low while all have requests.
local SHARES = { 64, 8, 1 }
-- Tags of groups that wait no longer are dropped when the hash has twice as many fields as after
-- the last time, and more than this.
local TAGS_KEPT = 512

-- Class, weight and group of a request; `turn` is the three, one per line, or ''.
local function parse_turn(turn)
  if turn == '' then
    return 2, 1, ''
  end
  local class, weight, group = string.match(turn, '^(%d)\n([^\n]*)\n(.*)$')
  return tonumber(class), tonumber(weight), group
end

local function queue_key(name, class)
  return name .. ':queue:' .. int(class)
end

local function tag_text(tag)
  return string.format('%.17g', tag)
end

local function drop_old_tags(name)
  local size = redis.call('HLEN', name)
  if size <= 2 * math.max(TAGS_KEPT, tonumber(redis.call('HGET', name, 's') or 0)) then
    return
  end
  local values = redis.call('HGETALL', name)
  local last = {}
  for i = 1, #values, 2 do
    last[values[i]] = tonumber(values[i + 1])
  end
  for field, tag in pairs(last) do
    if string.sub(field, 1, 1) == 'k' and tag <= (last['v' .. string.sub(field, 2, 2)] or 0) then
      redis.call('HDEL', name, field)
    end
  end
  redis.call('HSET', name, 's', redis.call('HLEN', name))
end

local function enqueue(name, key, turn)
  local class, weight, group = parse_turn(turn)
  local group_field = 'k' .. int(class) .. group
  local tags = redis.call('HMGET', name, 'v' .. int(class), group_field)
  local start = math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))
  redis.call('ZADD', queue_key(name, class), tag_text(start), key)
  redis.call('HSET', name, group_field, tag_text(start + 1 / weight))
  drop_old_tags(name)
end

local function dequeue(name, key, turn)
  redis.call('ZREM', queue_key(name, (parse_turn(turn))), key)
end

local function queue_length(name)
  local length = 0
  for class = 1, #SHARES do
    length = length + redis.call('ZCARD', queue_key(name, class))
  end
  return length
end

-- The record that goes on next, its class, and its tags; nil if none waits.
local function first_of(name)
  local best, best_class, best_tag, best_turn
  for class = 1, #SHARES do
    local head = redis.call('ZRANGE', queue_key(name, class), 0, 0, 'WITHSCORES')
    if head[1] then
      local turn = tonumber(redis.call('HGET', name, 'c' .. int(class)) or 0)
      if not best or turn < best_turn then
        best, best_class, best_tag, best_turn = head[1], class, head[2], turn
      end
    end
  end
  return best, best_class, best_tag, best_turn
end

-- Remove the record that `first_of` found, because it goes on.
local function take_first(name, key, class, tag, turn)
  redis.call('ZREM', queue_key(name, class), key)
  -- A class that had nothing starts where the others are, as a group does.
  local fields = { 'v' .. int(class), tag, 'c' .. int(class), tag_text(turn + 1 / SHARES[class]) }
  for other = 1, #SHARES do
    if other ~= class and redis.call('EXISTS', queue_key(name, other)) == 0 then
      fields[#fields + 1], fields[#fields + 2] = 'c' .. int(other), tag_text(turn)
    end
  end
  redis.call('HSET', name, unpack(fields))
end
