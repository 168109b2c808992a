-- Keep a step's value with the run. ARGV: prefix, agent, epoch, id, token, key, value. Answers 1 or 0.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local row = owned(g, ARGV[4], ARGV[5])
if not row then return 0 end
call('HSET', notes_key(g, row.id), ARGV[6], ARGV[7])
row.notes = true
save(g, row)
finish()
return 1
