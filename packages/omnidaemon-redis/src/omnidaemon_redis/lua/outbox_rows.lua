-- The outbox of a slot: rows by serial number (with a k behind it for a row that has an ordering key), a ZSET
-- of them by due time, and one of those that are leased by the end of that.
local OUTBOX_LEASE = 15000
local ROW_FIELDS = 7

-- Insert a row unless its event's id waits here already; whether it was inserted.
local function put_outbox(p, topic, id, key, body, due, leased, g, source)
  if call('HEXISTS', p .. 'on', id) == 1 then return false end
  local serial = fmt('%013.0f', call('INCR', p .. 'oc')) .. (key ~= '' and 'k' or '')
  call('HSET', p .. 'on', id, serial)
  call('HSET', p .. 'O', serial,
    concat({num(due), g and g.agent or '', g and g.epoch or '', source or '', topic, id, key, ''}, '\0') .. body)
  call('ZADD', p .. 'o', due, serial)
  if leased > 0 then call('ZADD', p .. 'ol', leased, serial) end
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
  call('ZREM', p .. 'ol', serial)
  if f[2] ~= '' then
    local unsent, left = p .. 'u:' .. f[2], {}
    for other in string.gmatch(call('HGET', unsent, f[4]) or '', '[^,]+') do
      if other ~= serial then left[#left + 1] = other end
    end
    if #left > 0 then call('HSET', unsent, f[4], concat(left, ',')) else call('HDEL', unsent, f[4]) end
  end
  return 1
end
