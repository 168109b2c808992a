-- Add to a run's progress stream, a list whose first item is the number of the next one.
-- ARGV: prefix, agent, epoch, id, token, keep in ms, chunks. Answers 1, or 0 when the token does not own it.
local g = group_of(ARGV[1], ARGV[2], ARGV[3])
local row = owned(g, ARGV[4], ARGV[5])
if not row then return 0 end
if #ARGV > 6 then
  local key = progress_key(g, row.id)
  if row.chunks == 0 then call('DEL', key) end
  if call('EXISTS', key) == 0 then call('RPUSH', key, num(row.chunks + 1)) end
  for from = 7, #ARGV, CHUNK do
    call('RPUSH', key, unpack(ARGV, from, math.min(#ARGV, from + CHUNK - 1)))
  end
  call('PEXPIRE', key, ARGV[6])
  row.chunks = row.chunks + #ARGV - 6
end
save(g, row)
finish()
return 1
