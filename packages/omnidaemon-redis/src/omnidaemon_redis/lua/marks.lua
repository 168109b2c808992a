-- Done marks: fields of small hashes (listpacks) under linear hashing. A group has `mb` buckets for
-- `mk` marks; when there are more than PER_BUCKET for each, one bucket is split in two.
-- A field is 20 hex digits of the id's SHA-1; its first 8 choose the bucket.
local PER_BUCKET = 64

local function hash_of(id) return sub(redis.sha1hex(id), 1, 20) end

local function marks_of(g)
  local m = g.marks
  if not m then
    local v = call('HMGET', g.meta, 'mk', 'mb', 'mt', 'old', 'sw')
    m = {count = tonumber(v[1] or 0), buckets = tonumber(v[2] or 1), ttls = v[3] or '', new = 0,
      key = g.p .. 'm:' .. g.agent .. ':' .. g.epoch .. ':'}
    m.low = 1
    while m.low * 2 <= m.buckets do m.low = m.low * 2 end
    g.marks, g.old, g.swept = m, v[4], tonumber(v[5] or 0)
  end
  return m
end

local function bucket_of(m, hash)
  local h = tonumber(sub(hash, 1, 8), 16)
  local b = h % (m.low * 2)
  if b >= m.buckets then b = h % m.low end
  return b
end

local function marked(g, hash)
  local m = marks_of(g)
  return call('HEXISTS', m.key .. bucket_of(m, hash), hash) == 1
end

-- A mark's value says when it was settled and how long its window is: seconds * 8 + number of the
-- window among the group's windows, a short integer in a listpack. Odd or short windows are written out.
local function mark_value(g, ttl)
  local m = marks_of(g)
  m.values = m.values or {}
  local v = m.values[ttl]
  if v then return v end
  local text, place = num(ttl), nil
  if ttl >= 60000 then
    local k = 0
    for known in string.gmatch(m.ttls, '[^,]+') do
      if known == text then place = k end
      k = k + 1
    end
    if not place and k < 8 then
      place, m.ttls = k, m.ttls == '' and text or m.ttls .. ',' .. text
      call('HSET', g.meta, 'mt', m.ttls)
    end
  end
  if place then v = num(ceil(NOW / 1000) * 8 + place) else v = num(NOW) .. ':' .. num(NOW + ttl) end
  m.values[ttl] = v
  return v
end

-- When a mark was settled and until when it counts, in milliseconds.
local function mark_times(m, value)
  local colon = find(value, ':', 1, true)
  if colon then return tonumber(sub(value, 1, colon - 1)), tonumber(sub(value, colon + 1)) end
  value = tonumber(value)
  if not m.windows then
    m.windows = {}
    for known in string.gmatch(m.ttls, '[^,]+') do m.windows[#m.windows + 1] = tonumber(known) end
  end
  local settled = floor(value / 8) * 1000
  return settled, settled + (m.windows[value % 8 + 1] or 0)
end

local function mark(g, hash, ttl)
  local m = marks_of(g)
  m.new = m.new + call('HSET', m.key .. bucket_of(m, hash), hash, mark_value(g, ttl))
end

local function split_bucket(m)
  if m.buckets == m.low * 2 then m.low = m.buckets end
  local from, to = m.buckets - m.low, m.buckets
  m.buckets = m.buckets + 1
  local all, moved, gone = call('HGETALL', m.key .. from), {}, {}
  for k = 1, #all, 2 do
    if tonumber(sub(all[k], 1, 8), 16) % (m.low * 2) == to then
      gone[#gone + 1] = all[k]
      moved[#moved + 1] = all[k]
      moved[#moved + 1] = all[k + 1]
    end
  end
  if #gone > 0 then
    many('HDEL', m.key .. from, gone)
    many('HSET', m.key .. to, moved)
  end
end

-- Write back the number of marks; every script that marks ends with it.
local function finish_marks(g)
  local m = g.marks
  if not m or m.new == 0 then return end
  m.count = m.count + m.new
  m.new = 0
  local before = m.buckets
  while m.count > PER_BUCKET * m.buckets do split_bucket(m) end
  if m.buckets ~= before then
    call('HSET', g.meta, 'mk', num(m.count), 'mb', num(m.buckets))
  else
    call('HSET', g.meta, 'mk', num(m.count))
  end
end
