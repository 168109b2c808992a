-- Sums since ever, and of each minute; flat is name, value, name, value ...
local function add(key, name, value)
  if not find(value, '.', 1, true) and not find(value, 'e', 1, true) then
    local reply = pcall_('HINCRBY', key, name, value) -- much cheaper, and possible while the sum is whole
    if type(reply) ~= 'table' then return end
  end
  call('HINCRBYFLOAT', key, name, value)
end

local function add_counts(g, flat, from, to, ttl)
  local total, minute = g.p .. 'k:' .. g.agent, g.p .. 'k:' .. g.agent .. ':' .. num(floor(NOW / 60000))
  for k = from, to, 2 do
    add(total, flat[k], flat[k + 1])
    add(minute, flat[k], flat[k + 1])
  end
  if to > from then call('PEXPIRE', minute, ttl) end
end
