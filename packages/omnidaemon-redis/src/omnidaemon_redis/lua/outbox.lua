-- Lease due rows. ARGV: limit, lease, prefixes of the slots. Answers: rows, as {place of the slot, topic, id,
-- key, body}; the milliseconds until the next is due, or ''.
local limit, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local rows, next_at = {}, nil
for at = 3, #ARGV do
  local p = ARGV[at]
  local free = limit - #rows
  if free > 0 then
    for _, serial in ipairs(call('ZRANGE', p .. 'o', '-inf', NOW, 'BYSCORE', 'LIMIT', 0, free)) do
      local f, pos = split(call('HGET', p .. 'O', serial), 7)
      rows[#rows + 1] = {at - 3, f[5], f[6], f[7], sub(call('HGET', p .. 'O', serial), pos)}
      call('ZADD', p .. 'o', NOW + lease, serial)
    end
  end
  local soonest = call('ZRANGE', p .. 'o', 0, 0, 'WITHSCORES')[2]
  if soonest and (not next_at or tonumber(soonest) < next_at) then next_at = tonumber(soonest) end
end
return {rows, next_at and num(next_at - NOW) or ''}
