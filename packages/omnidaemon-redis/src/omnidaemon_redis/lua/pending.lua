-- What lies idle. ARGV: most entries of each group, then for each: prefix, agent, group, idle time in ms.
-- Answers an array of {place, position, reader, position, reader ...} for groups that have any: pending
-- entries, and events whose claim on the fast path has expired (of no reader).
local out = {}
for at = 2, #ARGV, 4 do
  local found = {(at - 2) / 4}
  local reply = pcall_('XPENDING', ARGV[at] .. 's', ARGV[at + 2], 'IDLE', ARGV[at + 3], '-', '+', ARGV[1])
  if reply and not reply.err then
    for k = 1, #reply do
      found[#found + 1] = reply[k][1]
      found[#found + 1] = reply[k][2]
    end
  end
  for _, v in ipairs(call('HVALS', ARGV[at] .. 'c:' .. ARGV[at + 1])) do
    if byte(v, 47) == 110 and tonumber(sub(v, 14, 26)) <= NOW then -- 'n'
      found[#found + 1] = split(sub(v, 48), 3)[3]
      found[#found + 1] = ''
    end
  end
  if #found > 1 then out[#out + 1] = found end
end
return out
