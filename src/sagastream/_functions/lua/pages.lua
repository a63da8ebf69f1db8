-- Paged sets: sorted sets of records that stay small when they have a million members.
--
-- The set NAME is a B+ tree of two levels. Its members are items: the score, 8 bytes that sort as
-- numbers do, and the request's id in few bytes. Each page is a sorted set `NAME:page:FROM` of at
-- most PAGE_LENGTH items, which the server stores as one compact list. The sorted set NAME has
-- the least item that belongs to each page, '' for the first one. The string `NAME:length` counts.

-- The servers' default for sorted sets that they store as a list is 128 members.
local PAGE_LENGTH = 120

local X4, X8 = '(%x%x%x%x)', '(%x%x%x%x%x%x%x%x)'
local UUID = '^' .. X8 .. '%-' .. X4 .. '%-' .. X4 .. '%-' .. X4 .. '%-' .. X4 .. X8 .. '$'
local TRACE = '^00%-' .. X8 .. X8 .. X8 .. X8 .. '%-' .. X8 .. X8 .. '%-(%x%x)$'
-- How a text of a usual form is packed: its letter, form, pattern, and the packed numbers.
local FORMS = {
  { 'u', UUID, '>I4I2I2I2I2I4', '%08x-%04x-%04x-%04x-%04x%08x', 36 },
  { 'w', TRACE, '>I4I4I4I4I4I4I1', '00-%08x%08x%08x%08x-%08x%08x-%02x', 55 },
  { 's', '^' .. X8 .. X8 .. '$', '>I4I4', '%08x%08x', 16 },
}

-- A text in fewer bytes if it is a UUID, a traceparent or the id of a span, in lower case.
local function shorten(text)
  for _, form in ipairs(FORMS) do
    local parts = #text == form[5] and { string.match(text, form[2]) } or {}
    if parts[1] then
      for i, part in ipairs(parts) do
        parts[i] = tonumber(part, 16)
      end
      if string.format(form[4], unpack(parts)) == text then
        return form[1] .. struct.pack(form[3], unpack(parts))
      end
    end
  end
  return text == '' and '' or 't' .. text
end

local function restore(short)
  local letter = string.sub(short, 1, 1)
  for _, form in ipairs(FORMS) do
    if letter == form[1] then
      return string.format(form[4], struct.unpack(form[3], string.sub(short, 2)))
    end
  end
  return string.sub(short, 2)
end

local function item_of(call, score, key)
  return struct.pack('>d', score) .. shorten(id_of(call, key))
end

local function page_key(name, from)
  return name .. ':page:' .. (string.gsub(from, '.', function(char)
    return string.format('%02x', string.byte(char))
  end))
end

-- The least item of the page that an item belongs to.
local function page_of(name, item)
  return redis.call('ZREVRANGEBYLEX', name, '[' .. item, '-', 'LIMIT', 0, 1)[1] or ''
end

-- Move the upper half of a page to a new one; only its last item if that has just come.
local function split_page(name, page, item)
  local items = redis.call('ZRANGE', page, 0, -1)
  local first = items[#items] == item and #items or math.floor(#items / 2) + 1
  local members = {}
  for i = first, #items do
    members[#members + 1], members[#members + 2] = 0, items[i]
  end
  redis.call('ZREM', page, unpack(items, first))
  redis.call('ZADD', name, 0, items[first])
  redis.call('ZADD', page_key(name, items[first]), unpack(members))
end

-- Add a record, unless it is a member with this score.
local function add_paged(call, name, score, key)
  local item = item_of(call, score, key)
  local from = page_of(name, item)
  local page = page_key(name, from)
  if redis.call('ZADD', page, 0, item) == 0 then
    return
  end
  redis.call('INCR', name .. ':length')
  local length = redis.call('ZCARD', page)
  if length == 1 then
    redis.call('ZADD', name, 0, from)
  elseif length > PAGE_LENGTH then
    split_page(name, page, item)
  end
end

-- Remove a record that is a member with this score.
local function remove_paged(call, name, score, key)
  local item = item_of(call, score, key)
  local from = page_of(name, item)
  local page = page_key(name, from)
  if redis.call('ZREM', page, item) == 0 then
    return
  end
  if redis.call('DECR', name .. ':length') == 0 then
    redis.call('DEL', name .. ':length')
  end
  if redis.call('EXISTS', page) == 0 then
    redis.call('ZREM', name, from)
  end
end

-- The records of the least scores, at most `limit`: lists of score and key.
local function first_paged(call, name, limit)
  local found, at = {}, 0
  while #found < limit do
    local from = redis.call('ZRANGE', name, at, at)[1]
    if not from then
      break
    end
    for _, item in ipairs(redis.call('ZRANGE', page_key(name, from), 0, limit - #found - 1)) do
      local score = struct.unpack('>d', item)
      found[#found + 1] = { score, call.prefix .. 'request:' .. restore(string.sub(item, 9)) }
    end
    at = at + 1
  end
  return found
end
