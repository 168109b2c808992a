-- Read a progress stream. ARGV: prefix, agent, id, after, limit. Answers the first number, then chunks.
local key = ARGV[1] .. 'p:' .. ARGV[2] .. ':' .. ARGV[3]
local first = tonumber(call('LINDEX', key, 0) or 0)
if first == 0 then return {} end
local from = math.max(tonumber(ARGV[4]) + 1, first)
local place = from - first + 1
local limit = tonumber(ARGV[5])
if limit <= 0 then return {} end
local out = call('LRANGE', key, place, place + limit - 1)
table.insert(out, 1, num(from))
return out
