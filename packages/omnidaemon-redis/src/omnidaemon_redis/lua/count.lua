-- ARGV: prefix, agent, epoch. Answers inbox, working, waiting, dead letters.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local dead = call('ZCARD', g.dead)
if not g.current then return {0, 0, 0, dead} end
local v = call('HMGET', g.meta, 'inbox', 'working', 'waiting')
return {tonumber(v[1] or 0), tonumber(v[2] or 0) + call('HLEN', g.claims), tonumber(v[3] or 0), dead}
