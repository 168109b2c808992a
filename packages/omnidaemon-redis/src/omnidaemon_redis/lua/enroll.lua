-- Register an agent. ARGV: prefix, agent, data. Answers epoch, registered at, whether it was deleted.
local key = ARGV[1] .. 'a'
local old = call('HGET', key, ARGV[2])
local epoch, at, deleted = '1', num(NOW), 0
if old then
  local f = split(old, 3)
  epoch, at = f[1], f[3]
  if f[2] == '1' then deleted, at = 1, num(NOW) end
end
call('HSET', key, ARGV[2], concat({epoch, '0', at, ''}, '\0') .. ARGV[3])
return {epoch, at, deleted}
