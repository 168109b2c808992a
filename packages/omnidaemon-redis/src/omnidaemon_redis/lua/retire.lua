-- Leave a tombstone. ARGV: prefix, agent, 1 to end the epoch. Answers whether it existed, runs of the
-- inbox and rows of the outbox that went.
local key, agent = ARGV[1] .. 'a', ARGV[2]
local old = call('HGET', key, agent)
if not old then return {0, 0, 0} end
local f, pos = split(old, 3)
local g = group_of(ARGV[1], agent, f[1])
local runs, rows = 0, 0
if ARGV[3] == '1' then
  for _, id in ipairs(call('HKEYS', g.claims)) do
    drop(g, load(g, id))
    runs = runs + 1
  end
  for _, id in ipairs(call('HKEYS', g.wide)) do
    drop(g, load(g, id))
    runs = runs + 1
  end
  for _, serials in ipairs(call('HVALS', g.unsent)) do
    for serial in string.gmatch(serials, '[^,]+') do rows = rows + drop_outbox(g.p, serial) end
  end
  -- Marks count no longer, and still lead to the records of their blocks for as long as those are kept.
  local m, longest = marks_of(g), 0
  for known in string.gmatch(m.ttls, '[^,]+') do longest = math.max(longest, tonumber(known)) end
  for b = 0, m.buckets - 1 do call('PEXPIRE', m.key .. b, num(longest)) end
  call('HSET', g.meta, 'past', sub(f[1] .. ':' .. num(m.buckets) .. ',' .. m.past, 1, 200))
  call('HDEL', g.meta, 'mk', 'mb', 'gen', 'inbox', 'working', 'waiting')
  -- Final records of the epoch that ends here stay, and are in the way of new runs of their events.
  call('HSET', g.meta, 'old', '1')
  f[1] = num(tonumber(f[1]) + 1)
end
call('HSET', key, agent, concat({f[1], '1', f[3], ''}, '\0') .. sub(old, pos))
return {f[2] == '0' and 1 or 0, runs, rows}
