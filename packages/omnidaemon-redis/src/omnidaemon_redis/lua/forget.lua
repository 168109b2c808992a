-- Drop done marks of some buckets, and expired entries of the index. ARGV: prefix, agent, epoch, settled
-- before (ms), first bucket, number of buckets. Answers how many marks went, and whether buckets are left.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local m = marks_of(g)
local before, first = tonumber(ARGV[4]), tonumber(ARGV[5])
local last = math.min(m.buckets, first + tonumber(ARGV[6])) - 1
local dropped = 0
for b = first, last do
  local all, gone = call('HGETALL', m.key .. b), {}
  for k = 1, #all, 2 do
    local settled, till = mark_times(m, all[k + 1])
    if settled < before and till <= NOW then gone[#gone + 1] = all[k] end
  end
  if #gone > 0 then
    many('HDEL', m.key .. b, gone)
    dropped = dropped + #gone
  end
end
local more = last + 1 < m.buckets
m.count = m.count - dropped
-- Merge the last buckets again when far fewer marks are left; only a full pass knows.
local merged = 0
while not more and m.buckets > 1 and m.count < PER_BUCKET / 3 * m.buckets and merged < 64 do
  local from, low = m.buckets - 1, 1
  while low * 2 <= from do low = low * 2 end
  local all = call('HGETALL', m.key .. from)
  if #all > 0 then many('HSET', m.key .. (from - low), all) end
  call('DEL', m.key .. from)
  m.buckets, merged = from, merged + 1
end
if dropped > 0 or merged > 0 then call('HSET', g.meta, 'mk', num(m.count), 'mb', num(m.buckets)) end
if first == 0 then
  -- A part of each index in turn: records may have had all kinds of TTL.
  local from = tonumber(call('HGET', g.meta, 'si') or 0)
  local ids = call('ZRANGE', g.index, from, from + 499)
  local stale = {}
  for _, id in ipairs(ids) do
    if call('EXISTS', g.rec .. id) == 0 and call('HEXISTS', g.wide, id) == 0 then stale[#stale + 1] = id end
  end
  if #stale > 0 then many('ZREM', g.index, stale) end
  local upto = #ids < 500 and 0 or from + 500 - #stale
  if upto ~= from then call('HSET', g.meta, 'si', num(upto)) end
end
return {dropped, more and 1 or 0}
