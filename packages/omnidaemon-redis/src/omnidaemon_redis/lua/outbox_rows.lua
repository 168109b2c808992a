-- The outbox of a slot: rows by serial number; a ZSET by the time at which a relay may have them; and for each
-- key of a topic its line, a ZSET by due time. What waits behind another row of its line is missing in the first
-- ZSET, however much that is, unless it is leased; the first row of each line is always there.
local OUTBOX_LEASE = 15000
local ROW_FIELDS = 7

local function line_of(p, topic, key)
  if key ~= '' then return p .. 'ok:' .. topic .. key end
end

-- Insert a row unless its event's id waits here already; whether it was inserted.
local function put_outbox(p, topic, id, key, body, due, leased, g, source)
  if call('HEXISTS', p .. 'on', id) == 1 then return false end
  local serial = fmt('%013.0f', call('INCR', p .. 'oc'))
  call('HSET', p .. 'on', id, serial)
  call('HSET', p .. 'O', serial,
    concat({num(due), g and g.agent or '', g and g.epoch or '', source or '', topic, id, key, ''}, '\0') .. body)
  local line = line_of(p, topic, key)
  if line then call('ZADD', line, due, serial) end
  if not line or leased > due or call('ZRANK', line, serial) == 0 then
    call('ZADD', p .. 'o', due > leased and due or leased, serial)
  end
  if g then
    local known = call('HGET', g.unsent, source)
    call('HSET', g.unsent, source, known and known .. ',' .. serial or serial)
  end
  return true
end

local function drop_outbox(p, serial)
  local row = call('HGET', p .. 'O', serial)
  if not row then return 0 end
  local f = split(row, ROW_FIELDS)
  call('HDEL', p .. 'O', serial)
  call('HDEL', p .. 'on', f[6])
  call('ZREM', p .. 'o', serial)
  local line = line_of(p, f[5], f[7])
  if line then
    call('ZREM', line, serial)
    local first = call('ZRANGE', line, 0, 0, 'WITHSCORES')
    if first[1] and not call('ZSCORE', p .. 'o', first[1]) then call('ZADD', p .. 'o', first[2], first[1]) end
  end
  if f[2] ~= '' then
    local unsent, left = p .. 'u:' .. f[2], {}
    for other in string.gmatch(call('HGET', unsent, f[4]) or '', '[^,]+') do
      if other ~= serial then left[#left + 1] = other end
    end
    if #left > 0 then call('HSET', unsent, f[4], concat(left, ',')) else call('HDEL', unsent, f[4]) end
  end
  return 1
end
