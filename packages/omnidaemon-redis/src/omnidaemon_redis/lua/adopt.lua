-- Take events over from the bus. ARGV for each: prefix, agent, epoch, id, token, lane, after, tenant, delay, body,
-- position.
local function adopt(g, id, token, lane, after, tenant, delay, body, position)
  if not g.current then return token and 0 or 1 end
  local row = load(g, id)
  if token and (not row or row.token ~= token) then return 0 end
  if not row then
    if marked(g, hash_of(id)) then return 1 end
    replace_stale(g, id)
    row = new_run(g, id, tenant)
  end
  if FINAL[row.state] or row.inbox then return 1 end
  if lane then enter(g, row, lane, after, position) end
  row.inbox, row.body, row.write_body = true, body, true
  if not row.token then row.due, row.blocked = NOW + delay, not is_head(g, row) end
  save(g, row)
  return 1
end

local out, n = {}, 0
for at = 1, #ARGV, 11 do
  local g = group_of(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  n = n + 1
  out[n] = adopt(g, ARGV[at + 3], opt(ARGV[at + 4]), opt(ARGV[at + 5]), opt(ARGV[at + 6]), opt(ARGV[at + 7]),
    tonumber(ARGV[at + 8]), ARGV[at + 9], ARGV[at + 10])
end
finish()
return out
