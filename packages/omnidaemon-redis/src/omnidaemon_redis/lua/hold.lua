-- Renew claims. ARGV for each: prefix, agent, epoch, id, token, lease. Answers 1 or 0 each.
local out, n = {}, 0
for at = 1, #ARGV, 6 do
  local g, id, token = group_of(ARGV[at], ARGV[at + 1], ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4]
  local row = owned(g, id, token)
  n = n + 1
  out[n] = row and 1 or 0
  if row then
    row.lease = NOW + tonumber(ARGV[at + 5])
    if row.from == 'claim' then
      call('HSET', g.claims, id, fmt('%013.0f%013.0f', row.created, row.lease) .. row.tail)
    else
      save(g, row)
    end
  end
end
finish()
return out
