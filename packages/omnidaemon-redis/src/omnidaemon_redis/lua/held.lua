-- Positions of events that claims on the fast path hold: they are not among a group's pending entries.
-- Answers how many, and the lowest.
local function held(p, agent)
  local count, low = 0, nil
  for _, v in ipairs(call('HVALS', p .. 'c:' .. agent)) do
    if byte(v, 47) == 110 then -- 'n'
      local position = split(sub(v, 48), 3)[3]
      count = count + 1
      if not low or later(low, position) then low = position end
    end
  end
  return count, low
end
