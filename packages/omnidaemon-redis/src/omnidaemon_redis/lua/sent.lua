-- Remove rows whose publish was confirmed. ARGV: number of ids, ids, prefixes of slots where they may be.
-- Answers how many went.
local count, gone = tonumber(ARGV[1]), 0
for at = count + 2, #ARGV do
  for k = 2, count + 1 do
    local serial = call('HGET', ARGV[at] .. 'on', ARGV[k])
    if serial then gone = gone + drop_outbox(ARGV[at], serial) end
  end
end
return gone
