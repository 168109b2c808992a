-- Settle runs that were claimed on the fast path and have ended for good: one group, one batch.
-- ARGV: prefix, agent, epoch, ttl, mark ttl, metrics ttl, number of runs, then for each: id, record as finals.lua
-- says, the time of its claim empty where the caller does not know it; then the positions of those to be
-- acknowledged, or ''; then the sums of all counts: name, value, ...
-- Answers the places (from 1) of runs that must be settled in the general way; then nothing has been done.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local ttl, mark_ttl, count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local FIRST = 8
local ids, refused = {}, {}
for k = 1, count do ids[k] = ARGV[FIRST + 2 * k - 2] end
local claims = g.current and fields(g.claims, ids, count) or {}
local pending, unknown = {}, false
for k = 1, count do
  local v, record = claims[k], ARGV[FIRST + 2 * k - 1]
  local e = find(record, '\0', 1, true)
  -- A tenant that only the claim knows must be kept: that is for the general way.
  if not v or sub(v, TOKEN_AT, TOKEN_AT - 1 + e) ~= sub(record, 1, e)
    or (byte(v, #v) ~= 0 and string.match(record, '^[^%z]*%z[^%z]*%z(%z?)') ~= '') then
    refused[#refused + 1] = k
  else
    if byte(record, e + 1) == 0 then unknown = true end
    if byte(v, 47) == 112 and ARGV[FIRST + 2 * count + k - 1] ~= '' then -- 'p'
      pending[#pending + 1] = ARGV[FIRST + 2 * count + k - 1]
    end
  end
end
if #refused > 0 or count == 0 then return refused end

local block = new_block(g, ttl)
local key, value = block_key(g, block), mark_value(g, mark_ttl, block)
local m = g.marks
call('HSET', key, '\0', g.epoch .. '\0' .. num(NOW) .. '\0' .. num(NOW + ttl))
if unknown then
  local flat = {}
  for k = 1, count do
    local record = ARGV[FIRST + 2 * k - 1]
    local e = find(record, '\0', 1, true)
    flat[2 * k - 1] = ids[k]
    flat[2 * k] = byte(record, e + 1) == 0 and sub(record, 1, e) .. sub(claims[k], 1, 13) .. sub(record, e + 1) or record
  end
  many('HSET', key, flat)
else
  for from = FIRST, FIRST + 2 * count - 1, CHUNK do
    call('HSET', key, unpack(ARGV, from, math.min(from + CHUNK, FIRST + 2 * count) - 1))
  end
end
call('PEXPIRE', key, ARGV[4])
for k = 1, count do
  local hash = sub(claims[k], 27, 46)
  m.new = m.new + call('HSET', m.key .. bucket_of(m, hash), hash, value)
end
many('HDEL', g.claims, ids, count)
acknowledge(g, pending, #pending)
add_counts(g, ARGV, FIRST + 3 * count, #ARGV - 1, ARGV[6])
finish_marks(g)
return refused
