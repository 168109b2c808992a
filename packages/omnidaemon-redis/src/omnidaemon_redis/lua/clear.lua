-- Forget counts. ARGV: prefix, agent, first minute, last minute (exclusive). Answers how many sums went.
local key, gone = ARGV[1] .. 'k:' .. ARGV[2], 0
gone = call('HLEN', key)
call('DEL', key)
for minute = tonumber(ARGV[3]), tonumber(ARGV[4]) - 1 do
  local name = key .. ':' .. num(minute)
  local size = call('HLEN', name)
  if size > 0 then
    gone = gone + size
    call('DEL', name)
  end
end
return gone
