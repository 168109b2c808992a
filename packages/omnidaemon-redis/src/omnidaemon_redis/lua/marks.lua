-- Done marks: fields of small hashes (listpacks) under linear hashing. A group has `mb` buckets for
-- `mk` marks; when there are more than PER_BUCKET for each, one bucket is split in two.
-- A field is 20 hex digits of the id's SHA-1; its first 8 choose the bucket.
local PER_BUCKET = 40

local function hash_of(id) return sub(redis.sha1hex(id), 1, 20) end

local function buckets(g, epoch, count)
  local m = {buckets = count, low = 1, key = g.p .. 'm:' .. g.agent .. ':' .. epoch .. ':'}
  while m.low * 2 <= count do m.low = m.low * 2 end
  return m
end

local function marks_of(g)
  local m = g.marks
  if not m then
    local v = call('HMGET', g.meta, 'mk', 'mb', 'mt', 'old', 'past')
    m = buckets(g, g.epoch, tonumber(v[2] or 1))
    m.count, m.ttls, m.new, m.past = tonumber(v[1] or 0), v[3] or '', 0, v[5] or ''
    g.marks, g.old = m, v[4]
  end
  return m
end

local function bucket_of(m, hash)
  local h = tonumber(sub(hash, 1, 8), 16)
  local b = h % (m.low * 2)
  if b >= m.buckets then b = h % m.low end
  return b
end

local function mark_of(m, hash) return call('HGET', m.key .. bucket_of(m, hash), hash) end

local function marked(g, hash)
  local m = marks_of(g)
  return call('HEXISTS', m.key .. bucket_of(m, hash), hash) == 1
end

-- A mark's value says when it was settled and how long its window is, and in which block (finals.lua) its record
-- is, if it is in one: 13 digits of milliseconds, 4 of the block's number within them plus one, 1 for the place of
-- the window among the group's windows. A listpack keeps that as 8 bytes. Odd or short windows are written out.
local function mark_value(g, ttl, block)
  local m = marks_of(g)
  local text, place, k = num(ttl), nil, 0
  if ttl >= 60000 then
    for known in string.gmatch(m.ttls, '[^,]+') do
      if known == text then place = k end
      k = k + 1
    end
    if not place and k < 8 then
      place, m.ttls = k, m.ttls == '' and text or m.ttls .. ',' .. text
      call('HSET', g.meta, 'mt', m.ttls)
    end
  end
  local ms, number = num(NOW), 0
  if block then
    local dash = find(block, '-', 1, true)
    ms, number = sub(block, 1, dash - 1), tonumber(sub(block, dash + 1)) + 1
  end
  if place and number < 10000 then return fmt('%s%04d%d', ms, number, place) end
  return num(NOW) .. ':' .. num(NOW + ttl) .. ':' .. (block or '')
end

-- When a mark was settled and until when it counts, in milliseconds.
local function mark_times(m, value)
  local first, second = string.match(value, '^(%d+):(%d+):')
  if first then return tonumber(first), tonumber(second) end
  if not m.windows then
    m.windows = {}
    for known in string.gmatch(m.ttls, '[^,]+') do m.windows[#m.windows + 1] = tonumber(known) end
  end
  local settled = tonumber(sub(value, 1, 13))
  return settled, settled + (m.windows[tonumber(sub(value, 18)) + 1] or 0)
end

-- The block in which the record of a mark is, or nil.
local function mark_block(value)
  local block = string.match(value, ':([^:]*)$')
  if block then return block ~= '' and block or nil end
  local number = tonumber(sub(value, 14, 17))
  if number > 0 then return sub(value, 1, 13) .. '-' .. num(number - 1) end
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
