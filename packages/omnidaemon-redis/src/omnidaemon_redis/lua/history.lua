-- One page of a topic's history. ARGV: stream, topic, from, to, most events, most bytes.
-- Answers position, body, position, body ...
local out, n, bytes = {}, 0, 0
for _, entry in ipairs(call('XRANGE', ARGV[1], ARGV[3], ARGV[4], 'COUNT', ARGV[5])) do
  local _, body = read_entry(ARGV[2], entry)
  out[n + 1], out[n + 2] = entry[1], body
  n, bytes = n + 2, bytes + #body
  if bytes > tonumber(ARGV[6]) then break end
end
return out
