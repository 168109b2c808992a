-- Sums of counts. ARGV: prefix, agent, first minute, last minute (exclusive), both '' for since ever.
-- Answers name, sum, name, sum ...
local key = ARGV[1] .. 'k:' .. ARGV[2]
if ARGV[3] == '' then return call('HGETALL', key) end
local sums, out = {}, {}
for minute = tonumber(ARGV[3]), tonumber(ARGV[4]) - 1 do
  local flat = call('HGETALL', key .. ':' .. num(minute))
  for k = 1, #flat, 2 do sums[flat[k]] = (sums[flat[k]] or 0) + tonumber(flat[k + 1]) end
end
for name, sum in pairs(sums) do
  out[#out + 1] = name
  out[#out + 1] = fmt('%.17g', sum)
end
return out
