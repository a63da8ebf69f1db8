-- Windows: of the commands that have one key within some time, the first or the last is kept.
--
-- The string `STREAM:unique:KEY` lives as long as the window. It has the time at which the window
-- began, and the record of the request that is kept.

-- One request by key within a window: `first` keeps the one that is there, `last` replaces it as long
-- as it waits for its time.
-- Returns the record that is kept instead of the new one, or nil and when the new one is due.
local function unique_of(call, stream, options, trace, retention)
  local window, now = stream .. ':unique:' .. options.unique, now_ms(call)
  local began, other = string.match(redis.call('GET', window) or '', '^(%d+) (.*)$')
  local length_ms = tonumber(options.unique_ms)
  if options.unique_keep == 'first' then
    return other, nil
  end
  began = tonumber(began or now)
  local record = other and read_record(call, other)
  if record and record.status == 'pending' and record.due > 0 then
    require_reply_streams(call, record)
    conclude(call, other, record, 'cancelled', '{}', trace, retention)
  else
    began = now -- the one before has begun
  end
  return nil, math.min(now + length_ms, began + tonumber(options.unique_wait_ms or 'inf')), began
end

-- Note the request of a window: until the window is over, or its request is due.
local function open_window(call, stream, options, key, due, began)
  local now = now_ms(call)
  local until_ms = options.unique_keep == 'first' and now + options.unique_ms or due
  if until_ms > now then
    redis.call('SET', stream .. ':unique:' .. options.unique, int(began or now) .. ' ' .. key, 'PX', int(until_ms - now))
  end
end
