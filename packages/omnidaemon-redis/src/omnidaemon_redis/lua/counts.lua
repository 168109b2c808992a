-- Sums since ever, and of each minute; flat is name, value, name, value ...
local function add_counts(g, flat, from, to, ttl)
  local total, minute = g.p .. 'k:' .. g.agent, g.p .. 'k:' .. g.agent .. ':' .. num(floor(NOW / 60000))
  for k = from, to, 2 do
    call('HINCRBYFLOAT', total, flat[k], flat[k + 1])
    call('HINCRBYFLOAT', minute, flat[k], flat[k + 1])
  end
  if to > from then call('PEXPIRE', minute, ttl) end
end
