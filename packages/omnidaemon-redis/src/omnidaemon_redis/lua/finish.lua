-- Settle runs that were claimed on the fast path and have ended for good: one group, one batch.
-- ARGV: prefix, agent, epoch, ttl, mark ttl, metrics ttl, 1 to acknowledge, number of runs, then for each:
--   position, id, token, rest of the record, its counts (names and values, each ending in NUL);
-- then the sums of all counts: name, value, ...
-- Answers the places (from 1) of runs that must be settled in the general way; for these nothing is done.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local ttl, mark_ttl, count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[8])
local FIRST, STEP = 9, 5
local ids = {}
for k = 1, count do ids[k] = ARGV[FIRST + STEP * (k - 1) + 1] end
local claims = g.current and fields(g.claims, ids, count) or {}
-- The shape of runs.lua, encode(), for a first attempt.
local head = g.epoch .. '\0000\0001\0001\0000\0\0\0\0\0000\0\0000\0\0\0\0000\0000\0='
local tail = '\0' .. num(NOW) .. '\0' .. num(NOW + ttl) .. '\0'
local px, value = ARGV[4], mark_value(g, mark_ttl)
local m, refused, gone, index, positions = g.marks, {}, {}, {}, {}
local n = 0
for k = 1, count do
  local at = FIRST + STEP * (k - 1)
  local v, id, token = claims[k], ids[k], ARGV[at + 2]
  -- A tenant that only the claim knows must be kept: that is for the general way.
  if v and sub(v, 47, 46 + #token) == token and byte(v, 47 + #token) == 0
    and (byte(v, #v) == 0 or not find(sub(ARGV[at + 3], 1, 16), '\0\0\0', 1, true)) then
    n = n + 1
    gone[n], positions[n] = id, ARGV[at]
    index[2 * n - 1], index[2 * n] = NOW, id
    call('SET', g.rec .. id, head .. token .. '\0' .. sub(v, 1, 13) .. tail .. ARGV[at + 3], 'PX', px)
    local hash = sub(v, 27, 46)
    m.new = m.new + call('HSET', m.key .. bucket_of(m, hash), hash, value)
  else
    refused[#refused + 1] = k
  end
end
if n > 0 then
  many('HDEL', g.claims, gone)
  many('ZADD', g.index, index)
  if ARGV[7] == '1' then acknowledge(g, positions, n) end
  if ttl > mark_ttl then call('HSET', g.meta, 'old', '1') end
  local from, to = FIRST + STEP * count, #ARGV
  if #refused == 0 then
    add_counts(g, ARGV, from, to - 1, ARGV[6])
  else
    local sums = {}
    for k = from, to - 1, 2 do sums[ARGV[k]] = tonumber(ARGV[k + 1]) end
    for _, k in ipairs(refused) do
      for name, amount in string.gmatch(ARGV[FIRST + STEP * (k - 1) + 4], '([^%z]*)%z([^%z]*)%z') do
        sums[name] = sums[name] - tonumber(amount)
      end
    end
    local flat = {}
    for name, amount in pairs(sums) do
      if amount ~= 0 then
        flat[#flat + 1] = name
        flat[#flat + 1] = fmt('%.17g', amount)
      end
    end
    add_counts(g, flat, 1, #flat - 1, ARGV[6])
  end
  finish_marks(g)
  sweep_index(g, NOW - ttl, 2 * n)
end
return refused
