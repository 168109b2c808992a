-- Accept events to be published later, in the slot of their topic. ARGV: prefix, topic, then for each:
-- id, key, body, delay, deliver_at or ''. Answers 1 or 0 each.
local out = {}
for at = 3, #ARGV, 5 do
  local due = ARGV[at + 4] ~= '' and tonumber(ARGV[at + 4]) or NOW + tonumber(ARGV[at + 3])
  out[#out + 1] = put_outbox(ARGV[1], ARGV[2], ARGV[at], ARGV[at + 1], ARGV[at + 2], due, 0) and 1 or 0
end
return out
