-- Close attempts of any kind. ARGV: metrics ttl, number of outcomes, then for each:
--   prefix, agent, epoch, id, token, kind, state, attempt, delay, question, dead, ttl, mark ttl, tenant,
--   result, keep body, body, data, stream position or '', number of counts, name and value of each,
--   number of follow-ups, and for each: topic, id, key, body, delay, deliver_at.
local at, out = 3, {}
local function arg()
  at = at + 1
  return ARGV[at - 1]
end

local counted = {}
local function count(g, name, value)
  local sums = counted[g]
  if not sums then
    sums = {}
    counted[g] = sums
  end
  sums[name] = (sums[name] or 0) + value
end

local function close(g, row, o)
  if o.kind == 'retry' then
    row.state, row.attempt, row.inbox, row.due = 'submitted', o.attempt, true, NOW + (o.delay or 0)
    save(g, row)
  elseif o.kind == 'wait' then
    row.state, row.question, row.inbox = 'input_required', o.question, true
    row.due = o.delay and NOW + o.delay or nil
    leave(g, row)
    save(g, row)
  else
    row.state, row.result, row.dead = o.state, o.result, o.dead
    row.inbox, row.due, row.question = false, nil, nil
    mark(g, row.hash or hash_of(row.id), o.mark_ttl)
    if o.dead or o.ttl > o.mark_ttl then call('HSET', g.meta, 'old', '1') end
    leave(g, row)
    save_final(g, row, not o.dead and o.ttl or nil)
  end
end

local function settle(g, o)
  if not g.current then return 0 end
  local row = load(g, o.id)
  if not row then return 0 end
  if row.spent == o.token then return 1 end
  if row.token ~= o.token or FINAL[row.state] then return 0 end
  row.token, row.worker, row.spent, row.updated = nil, nil, o.token, NOW
  if o.kind == 'handback' then
    row.starts = row.starts - 1
    if row.state ~= 'input_required' then row.state = 'submitted' end
    if row.inbox then row.due = NOW end
    save(g, row)
  else
    row.data, row.write_data = o.data, true
    if o.tenant then row.tenant = o.tenant end
    if o.body then row.body, row.write_body = o.body, true end
    close(g, row, o)
  end
  for k = 1, #o.counts, 2 do count(g, o.counts[k], tonumber(o.counts[k + 1])) end
  for _, r in ipairs(o.rows) do
    local due = r.at ~= '' and tonumber(r.at) or NOW + tonumber(r.delay)
    -- Who settles sends at once what is due now; what is due later is anybody's.
    local leased = r.at == '' and tonumber(r.delay) <= 0 and NOW + OUTBOX_LEASE or 0
    put_outbox(g.p, r.topic, r.id, r.key, r.body, due, leased, g, o.id)
  end
  return 1
end

for n = 1, tonumber(ARGV[2]) do
  local g = group_of(arg(), arg(), arg())
  local o = {id = arg(), token = arg(), kind = arg(), state = arg(), attempt = tonumber(arg()), delay = tonumber(arg()),
    question = opt(arg()), dead = opt(arg()), ttl = tonumber(arg()), mark_ttl = tonumber(arg()), tenant = opt(arg()),
    result = opt(arg())}
  local keep, body = arg(), arg()
  if keep == '1' then o.body = body end
  o.data = arg()
  local position = arg()
  o.counts, o.rows = {}, {}
  for k = 1, 2 * tonumber(arg()) do o.counts[k] = arg() end
  for k = 1, tonumber(arg()) do
    o.rows[k] = {topic = arg(), id = arg(), key = arg(), body = arg(), delay = arg(), at = arg()}
  end
  out[n] = settle(g, o)
  if out[n] == 1 and position ~= '' and o.kind ~= 'handback' then call('XACK', g.p .. 's', g.group, position) end
end
for g, sums in pairs(counted) do
  local flat = {}
  for name, value in pairs(sums) do
    flat[#flat + 1] = name
    flat[#flat + 1] = fmt('%.17g', value)
  end
  add_counts(g, flat, 1, #flat, ARGV[1])
end
for _, g in pairs(groups) do finish_marks(g) end
finish()
return out
