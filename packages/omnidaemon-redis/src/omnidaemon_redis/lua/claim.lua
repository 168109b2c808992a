-- ARGV: worker, then for each ask: prefix, agent, epoch, id, token, lease, lane, after, tenant, takeover,
-- position. Optional texts are marked. Answers one array an ask.
local out, n = {}, 0
local worker = ARGV[1]
for at = 2, #ARGV, 11 do
  local g = group_of(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  n = n + 1
  out[n] = claim(g, worker, ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5]), opt(ARGV[at + 6]), opt(ARGV[at + 7]),
    opt(ARGV[at + 8]), ARGV[at + 9] == '1', ARGV[at + 10])
end
finish()
return out
