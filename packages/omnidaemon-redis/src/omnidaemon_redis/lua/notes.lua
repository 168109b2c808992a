-- ARGV: prefix, agent, epoch, id. Answers key, value, key, value ...
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local row = load(g, ARGV[4])
if not row or not row.notes then return {} end
return call('HGETALL', notes_key(g, row.id))
