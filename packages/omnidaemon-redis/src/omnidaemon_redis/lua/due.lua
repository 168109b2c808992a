-- ARGV: worker, call, first number, whether something was granted elsewhere, then for each group:
-- prefix, agent, epoch, limit, lease, alone, takeover.
-- Answers: next number, array of {group's place, grant}, array of places with suspects, next time or ''.
local worker, called, number, elsewhere = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local grants, suspects, next_at = {}, {}, nil
local granted = {}

-- Members of an unclaimed and a claimed index together, earliest first.
local function waiting(g, plain, claimed, limit, expired)
  local found = call('ZRANGE', g.p .. plain .. g.agent, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  if not expired then
    local ids = {}
    for k = 1, #found, 2 do ids[#ids + 1] = found[k] end
    return ids
  end
  local other = call('ZRANGE', g.p .. claimed .. g.agent, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local ids, a, b = {}, 1, 1
  while #ids < limit and (found[a] or other[b]) do
    if not other[b] or (found[a] and tonumber(found[a + 1]) <= tonumber(other[b + 1])) then
      ids[#ids + 1], a = found[a], a + 2
    else
      ids[#ids + 1], b = other[b], b + 2
    end
  end
  return ids
end

-- Count a lost start; whether that has just made the run a suspect.
local function expire(g, row)
  if not row.token then return false end
  local fresh = row.lost < SUSPECT_AFTER
  row.token, row.due = nil, NOW
  row.lost = row.lost + 1
  if fresh and row.lost >= SUSPECT_AFTER then
    save(g, row)
    return true
  end
  return false
end

-- The time keeps a late repetition of the call from giving a token that a run has had before.
local function hand_out(place, g, row, lease)
  grants[#grants + 1] = {place, start(g, row, worker, called .. '.' .. num(number) .. '.' .. fmt('%x', NOW), lease)}
  number = number + 1
  if not granted[g] then
    granted[g] = true
    call('SET', g.p .. 'e:' .. g.agent .. ':' .. called, '1', 'PX', num(lease > 60000 and lease or 60000))
  end
end

-- What this very call has handed out already.
local function repeated(place, g)
  if call('EXISTS', g.p .. 'e:' .. g.agent .. ':' .. called) == 0 then return false end
  local prefix, before = called .. '.', #grants
  for _, zset in ipairs({'x:', 'X:'}) do
    for _, id in ipairs(call('ZRANGE', g.p .. zset .. g.agent, 0, -1)) do
      local row = load(g, id)
      if row and row.token and sub(row.token, 1, #prefix) == prefix then
        grants[#grants + 1] = {place, grant_of(g, row)}
        number = number + 1
      end
    end
  end
  return #grants > before
end

local again = false
for at = 5, #ARGV, 7 do
  local g = group_of(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  if repeated((at - 5) / 7, g) then again = true end
end
for at = 5, #ARGV, 7 do
  local g, place = group_of(ARGV[at], ARGV[at + 1], ARGV[at + 2]), (at - 5) / 7
  local limit, lease = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local alone, takeover = ARGV[at + 5] == '1', ARGV[at + 6] == '1'
  if g.alive then
    if not again and limit > 0 then
      for _, id in ipairs(waiting(g, 'q:', 'x:', limit, takeover)) do
        local row = load(g, id)
        if not expire(g, row) then hand_out(place, g, row, lease) end
      end
    end
    local first = waiting(g, 'Q:', 'X:', 1, takeover)[1]
    if first then
      suspects[#suspects + 1] = place
      if alone and #grants == 0 and not elsewhere then
        local row = load(g, first)
        expire(g, row)
        hand_out(place, g, row, lease)
      end
    end
    for _, zset in ipairs({'q:', 'x:'}) do
      local soonest = call('ZRANGE', g.p .. zset .. g.agent, 0, 0, 'WITHSCORES')[2]
      if soonest then
        soonest = tonumber(soonest)
        if not next_at or soonest < next_at then next_at = soonest end
      end
    end
  end
end
finish()
return {number, grants, suspects, next_at and num(next_at - NOW) or ''}
