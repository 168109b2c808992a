-- Lease due rows. ARGV: limit, lease, prefixes of the slots. Answers: rows, as {place of the slot, topic, id,
-- key, body}; the milliseconds until the next is due, or ''.
-- Of a key's line nothing is leased behind what is leased already: nothing goes before what may have failed.
local limit, till = tonumber(ARGV[1]), NOW + math.max(1, tonumber(ARGV[2]))
local rows, next_at = {}, nil

-- Hand out what is due of a line, in order, until one that is leased or too many. Returns where it ended.
local function follow(p, line, give)
  local members = call('ZRANGE', line, 0, limit - #rows, 'WITHSCORES')
  for k = 1, #members, 2 do
    local free = tonumber(call('ZSCORE', p .. 'o', members[k]) or members[k + 1])
    if free > NOW or #rows == limit then
      call('ZADD', p .. 'o', free, members[k])
      return members[k]
    end
    give(members[k])
  end
  return ''
end

for at = 3, #ARGV do
  local p, given, ends = ARGV[at], {}, {}
  local function give(serial)
    local row = call('HGET', p .. 'O', serial)
    local f, pos = split(row, ROW_FIELDS)
    rows[#rows + 1] = {at - 3, f[5], f[6], f[7], sub(row, pos)}
    call('ZADD', p .. 'o', till, serial)
    given[serial] = true
  end
  while #rows < limit do
    local due = call('ZRANGE', p .. 'o', '-inf', NOW, 'BYSCORE', 'LIMIT', 0, limit - #rows)
    if #due == 0 then break end
    for _, serial in ipairs(due) do
      local f = split(call('HGET', p .. 'O', serial), ROW_FIELDS)
      local line = line_of(p, f[5], f[7])
      if not line then
        if #rows < limit then give(serial) end
      else
        if not ends[line] then ends[line] = follow(p, line, give) end
        -- Held: it comes back when it is the first of its line, or to the one before it.
        if not given[serial] and ends[line] ~= serial then call('ZREM', p .. 'o', serial) end
      end
    end
  end
  local soonest = tonumber(call('ZRANGE', p .. 'o', 0, 0, 'WITHSCORES')[2])
  if soonest and (not next_at or soonest < next_at) then next_at = soonest end
end
return {rows, next_at and num(next_at - NOW) or ''}
