-- A compare-and-set from outside. ARGV: prefix, agent, epoch, verb, id, op, question, value, body, data,
-- lane, tenant, ttl, metrics ttl. Answers a word.
local g, verb, id, op = group_of(ARGV[1], ARGV[2], ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
if not g.current then return 'gone' end
local row = load(g, id) or final_run(g, id)
if row and row.epoch ~= g.epoch and verb == 'cancel' then
  -- What an ended epoch left is no reason not to cancel what this one has yet to meet.
  drop(g, row)
  row = nil
end
if row and row.op == op then return 'done' end

-- Open the next generation, behind whatever waits in its lane.
local function reopen()
  row.epoch, row.gen = g.epoch, call('HINCRBY', g.meta, 'gen', 1)
  row.state, row.dead, row.result, row.expires = 'submitted', nil, nil, nil
  row.lost, row.token, row.op = 0, nil, op
  row.inbox, row.due, row.updated, row.seq = true, NOW, NOW, nil
  if row.lane then enter(g, row, row.lane) end
  row.blocked = not is_head(g, row)
  save(g, row)
  finish()
  return 'done'
end

if verb == 'cancel' then
  if not row then
    if marked(g, hash_of(id)) then return 'finished' end
    row = new_run(g, id)
    row.data = ARGV[10]
  elseif FINAL[row.state] then
    return row.state
  end
  row.state, row.token, row.worker, row.inbox, row.due = 'canceled', nil, nil, false, nil
  row.op, row.updated = op, NOW
  local ttl = tonumber(ARGV[13])
  mark(g, hash_of(id), ttl)
  leave(g, row)
  save_final(g, row, ttl)
  add_counts(g, {'canceled', '1'}, 1, 1, ARGV[14])
  finish_marks(g)
  finish()
  return 'done'
elseif verb == 'answer' then
  local question = opt(ARGV[7])
  if not row then return 'unknown' end
  if row.state ~= 'input_required' or row.question ~= question or row.token then return 'stale' end
  call('HSET', notes_key(g, id), 'answer:' .. (question or 'None'), ARGV[8])
  row.question, row.notes = nil, true
  return reopen()
elseif verb == 'replay' then
  if not row then return 'unknown' end
  if not row.dead then return row.state end
  row.attempt = 1
  return reopen()
end
if row and not FINAL[row.state] then return 'busy' end
if row then drop(g, row) end
row = new_run(g, id, opt(ARGV[12]))
row.body, row.data, row.lane = ARGV[9], ARGV[10], opt(ARGV[11])
return reopen()
