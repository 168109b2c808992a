-- Lease due rows, in the order of their due times. ARGV: limit, lease, prefixes of the slots. Answers: rows, as
-- {place of the slot, topic, id, key, body}; the milliseconds until the next is due, or ''.
-- A row behind a leased one of its topic and key is held: nothing goes before what may have failed.
local limit, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local rows, next_at = {}, nil

local function soonest(time)
  time = tonumber(time)
  if time and (not next_at or time < next_at) then next_at = time end
end

for at = 3, #ARGV do
  local p, offset, held, leased = ARGV[at], 0, {}, {}
  while true do
    local page = call('ZRANGE', p .. 'o', '-inf', NOW, 'BYSCORE', 'LIMIT', offset, 200)
    for _, serial in ipairs(page) do
      local ends = call('ZSCORE', p .. 'ol', serial)
      local busy = ends and tonumber(ends) > NOW
      local keyed = byte(serial, -1) == 107
      if not busy or keyed then
        local v = call('HGET', p .. 'O', serial)
        local f, pos = split(v, ROW_FIELDS)
        local key = keyed and f[5] .. f[7]
        if busy then
          held[key] = true
        elseif not held[key] then
          if #rows == limit then
            soonest(NOW)
            break
          end
          rows[#rows + 1] = {at - 3, f[5], f[6], f[7], sub(v, pos)}
          leased[#leased + 1] = serial
        end
      end
    end
    offset = offset + #page
    if #page < 200 or #rows == limit then break end
  end
  -- Leased only now: what is handed out together holds nothing of it.
  for _, serial in ipairs(leased) do call('ZADD', p .. 'ol', NOW + lease, serial) end
  if lease <= 0 and #leased > 0 then soonest(NOW) end
  soonest(call('ZRANGE', p .. 'o', '(' .. num(NOW), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2])
  soonest(call('ZRANGE', p .. 'ol', '(' .. num(NOW), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2])
end
return {rows, next_at and num(next_at - NOW) or ''}
