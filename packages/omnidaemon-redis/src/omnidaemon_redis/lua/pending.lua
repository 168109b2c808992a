-- What lies idle for a lease. ARGV: limit of each group, then for each: stream, group, lease in ms.
-- Answers an array of {place, position, reader, position, reader ...} for groups that have any.
local out = {}
for at = 2, #ARGV, 3 do
  local reply = pcall_('XPENDING', ARGV[at], ARGV[at + 1], 'IDLE', ARGV[at + 2], '-', '+', ARGV[1])
  if reply and not reply.err and #reply > 0 then
    local found = {(at - 2) / 3}
    for k = 1, #reply do
      found[#found + 1] = reply[k][1]
      found[#found + 1] = reply[k][2]
    end
    out[#out + 1] = found
  end
end
return out
