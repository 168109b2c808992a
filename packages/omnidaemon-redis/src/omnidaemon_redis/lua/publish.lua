-- Append events to one topic. ARGV: prefix, limit of unfinished bytes or '', 1 to make the stream, then for
-- each: id, body, key (marked). Answers a position each; '' when the topic is full; false when there is no
-- stream (and none was to be made).
local p, limit = ARGV[1], tonumber(ARGV[2])
local s, tails, ages, sizes = p .. 's', p .. 't', p .. 'T', p .. 'z'
local MAX_TAILS = 100000
if ARGV[3] ~= '1' and call('EXISTS', s) == 0 then return false end

-- Bytes that some group, or nobody yet, has finished: the mean size times the number of events.
local function unfinished()
  local v = call('HMGET', sizes, 'n', 'b')
  local count = call('XLEN', s)
  if not v[1] or count == 0 then return 0 end
  local most
  for _, info in ipairs(call('XINFO', 'GROUPS', s)) do
    local d = {}
    for k = 1, #info, 2 do d[info[k]] = info[k + 1] end
    local left = d['lag'] and d['lag'] + d['pending'] or count
    if not most or left > most then most = left end
  end
  return v[2] / v[1] * (most or count)
end

local used = limit and unfinished()
local out, bytes, stored, failed = {}, 0, 0, {}
for at = 4, #ARGV, 3 do
  local id, body, key = ARGV[at], ARGV[at + 1], opt(ARGV[at + 2])
  local position
  if key and failed[key] then
    position = '-'
  elseif limit and used + #body > limit then
    position = ''
    if key then failed[key] = true end
  elseif not key then
    position = call('XADD', s, '*', 'i', id, 'b', body)
  else
    local tail, p_ = call('HGET', tails, key), nil
    if tail then
      local f, rest = split(tail, 3)
      -- An event published twice keeps its first predecessor.
      if f[1] == id then p_ = f[3] ~= '' and f[3] or nil else p_ = f[2] .. ' ' .. f[1] end
    end
    if p_ then
      position = call('XADD', s, '*', 'i', id, 'b', body, 'k', key, 'p', p_)
    else
      position = call('XADD', s, '*', 'i', id, 'b', body, 'k', key)
    end
    call('HSET', tails, key, concat({id, position, p_ or '', ''}, '\0'))
    call('ZADD', ages, NOW, key)
  end
  if limit and #position > 1 then used, bytes, stored = used + #body, bytes + #body, stored + 1 end
  out[#out + 1] = position
end
if stored > 0 then
  call('HINCRBY', sizes, 'n', stored)
  call('HINCRBY', sizes, 'b', bytes)
end
local over = call('ZCARD', ages) - MAX_TAILS
if over > 0 then
  local old = call('ZPOPMIN', ages, math.min(over, CHUNK))
  for k = 1, #old, 2 do call('HDEL', tails, old[k]) end
end
return out
