-- The outbox of a slot: rows by serial number, and a ZSET by the time at which a relay may have them.
local OUTBOX_LEASE = 15000

-- Insert a row unless its event's id waits here already; whether it was inserted.
local function put_outbox(p, topic, id, key, body, due, leased, g, source)
  local rows = p .. 'O'
  if call('HEXISTS', p .. 'on', id) == 1 then return false end
  local serial = fmt('%013.0f', call('INCR', p .. 'oc'))
  call('HSET', p .. 'on', id, serial)
  call('HSET', rows, serial, concat({num(due), g and g.agent or '', g and g.epoch or '', source or '', topic, id, key, ''}, '\0') .. body)
  call('ZADD', p .. 'o', due > leased and due or leased, serial)
  if g then
    local known = call('HGET', g.unsent, source)
    call('HSET', g.unsent, source, known and known .. ',' .. serial or serial)
  end
  return true
end

local function drop_outbox(p, serial)
  local row = call('HGET', p .. 'O', serial)
  if not row then return 0 end
  local f = split(row, 7)
  call('HDEL', p .. 'O', serial)
  call('HDEL', p .. 'on', f[6])
  call('ZREM', p .. 'o', serial)
  if f[2] ~= '' then
    local unsent, left = p .. 'u:' .. f[2], {}
    for other in string.gmatch(call('HGET', unsent, f[4]) or '', '%d+') do
      if other ~= serial then left[#left + 1] = other end
    end
    if #left > 0 then call('HSET', unsent, f[4], concat(left, ',')) else call('HDEL', unsent, f[4]) end
  end
  return 1
end
