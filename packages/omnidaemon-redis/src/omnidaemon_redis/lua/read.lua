-- Read for groups. ARGV: reader, then for each: prefix, topic, group, limit, least idle time and
-- number of redelivery candidates, their positions.
-- Answers for each group: {tail or '' when full or false when there is no such group, entries}, an entry
-- being position, id, body, key or '', predecessor or ''.
local out = {}
local at = 2
while at <= #ARGV do
  local s, topic, group = ARGV[at] .. 's', ARGV[at + 1], ARGV[at + 2]
  local limit, idle, candidates = tonumber(ARGV[at + 3]), ARGV[at + 4], tonumber(ARGV[at + 5])
  local found, tail = {}, ''
  for k = at + 6, at + 5 + candidates do
    if #found >= limit then break end
    local reply = pcall_('XCLAIM', s, group, ARGV[1], idle, ARGV[k])
    if not reply.err and reply[1] then found[#found + 1] = reply[1] end
  end
  at = at + 6 + candidates
  if #found < limit then
    local new = fresh(s, group, ARGV[1], limit - #found)
    if not new then
      tail = false
    else
      for k = 1, #new do found[#found + 1] = new[k] end
      if #found < limit then tail = #new > 0 and new[#new][1] or read_up_to(s, group) end
    end
  end
  local flat, n = {}, 0
  for k = 1, #found do
    if found[k][2] then
      local id, body, key, p = read_entry(topic, found[k])
      flat[n + 1], flat[n + 2], flat[n + 3], flat[n + 4] = found[k][1], id, body, pack_opt(key)
      flat[n + 5] = pack_opt(key and unfinished_before(s, group, topic, id, p))
      n = n + 5
    end
  end
  out[#out + 1] = {tail, flat}
end
return out
