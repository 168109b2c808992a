-- Records of one agent, newest update first. ARGV: prefix, agent, limit, most rows to look at,
-- below this update time or '', and id (marked), since, until ('' is none), states (',completed,' or ''),
-- dead ('', 0 or 1), tenant (marked), number of event ids, event ids; with remove=1 as the last one, final
-- ones are dropped. Answers: matches, as {id, packed record, data, result (marked), body, notes}, or their
-- number when they were dropped; and where it stopped ('' at the end): time, id. With event ids there is one
-- page only.
local p, agent, limit, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local top, below, since, till = tonumber(ARGV[5]), opt(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local states, dead, tenant, wanted = ARGV[9], ARGV[10], opt(ARGV[11]), tonumber(ARGV[12])
local removing = ARGV[#ARGV] == 'remove=1'
local row_text = call('HGET', p .. 'a', agent)
local g = group_of(p, agent, row_text and split(row_text, 1)[1] or '0')
local journal = journal_key(g)
local out, stale, empty = {}, {}, {}

local function answer(time, id)
  if removing then
    for _, row in ipairs(out) do drop(g, row) end
    out = #out
  end
  if #stale > 0 then
    many('ZREM', g.index, stale)
    many('ZREM', g.dead, stale)
  end
  if #empty > 0 then many('XDEL', journal, empty) end
  finish()
  return {out, time, id}
end

local function any_epoch(id) return load(g, id) or final_run(g, id) end

-- Which source lists a run.
local function source_of(row)
  if row.from == 'claim' then return 1 end
  return row.block and 3 or 2
end

local function offer(row)
  if top and (row.updated > top or row.updated == top and below and row.id >= below) then return end
  if states ~= '' and not find(states, ',' .. row.state .. ',', 1, true) then return end
  if dead == '1' and not row.dead or dead == '0' and row.dead then return end
  if tenant and row.tenant ~= tenant then return end
  if since and row.updated < since or till and row.updated >= till then return end
  if removing then
    if FINAL[row.state] then out[#out + 1] = row end
    return
  end
  data_of(g, row)
  body_of(g, row)
  local notes = row.notes and call('HGETALL', notes_key(g, row.id)) or {}
  out[#out + 1] = {row.id, encode(row), row.data, row.result and '=' .. row.result or '', row.body, notes}
end

if wanted > 0 then
  for k = 13, 12 + wanted do
    local row = any_epoch(ARGV[k])
    if row then offer(row) end
  end
  return answer('', '')
end

-- Three sources, each newest first: a function that gives {time, id} again and again.
local high = top or till

-- Claims on the fast path: few, and in no index.
local function claims()
  local found, k = {}, 0
  if dead ~= '1' and not removing then
    local all = call('HGETALL', g.claims)
    for j = 1, #all, 2 do found[#found + 1] = {tonumber(sub(all[j + 1], 1, 13)), all[j]} end
    table.sort(found, function(a, b) if a[1] ~= b[1] then return a[1] > b[1] end return a[2] > b[2] end)
  end
  return function()
    k = k + 1
    return found[k]
  end
end

-- Runs in the index, or dead letters.
local function indexed(key)
  local step, k, offset = {}, 1, 0
  return function()
    if k > #step then
      if offset < 0 then return nil end
      step = call('ZRANGE', key, high or '+inf', since or '-inf', 'BYSCORE', 'REV', 'LIMIT', offset, 50, 'WITHSCORES')
      k, offset = 1, #step == 100 and offset + 50 or -1
      if #step == 0 then return nil end
    end
    k = k + 2
    return {tonumber(step[k - 1]), step[k - 2]}
  end
end

-- Final records of the fast path; entries of one time are one list, by id.
local function settled()
  local from, step, at, found, k = high and num(high) or '+', {}, 1, {}, 1
  if dead == '1' then from = nil end
  local function entry()
    if at > #step and from then
      step, at = call('XREVRANGE', journal, from, '-', 'COUNT', 4), 1
      from = #step == 4 and '(' .. step[4][1] or nil
    end
    return step[at]
  end
  return function()
    while k > #found and entry() do
      found, k = {}, 1
      local time
      while entry() and (not time or step[at][2][2] == time) do
        time = step[at][2][2]
        local all = call('HKEYS', block_key(g, step[at][1]))
        if #all == 0 then empty[#empty + 1] = step[at][1] end -- nothing of it is left
        for _, id in ipairs(all) do
          if id ~= '\0' then found[#found + 1] = {tonumber(time), id} end
        end
        at = at + 1
      end
      table.sort(found, function(a, b) return a[2] > b[2] end)
    end
    k = k + 1
    return found[k - 1]
  end
end

local sources = {claims(), indexed(dead == '1' and g.dead or g.index), settled()}
local heads = {sources[1](), sources[2](), sources[3]()}
local looked, stop_time, stop_id = 0, '', ''
while true do
  local best
  for k = 1, 3 do
    local a, b = heads[k], best and heads[best]
    if a and (not b or a[1] > b[1] or a[1] == b[1] and a[2] > b[2]) then best = k end
  end
  if not best then
    stop_time, stop_id = '', ''
    break
  end
  local time, id = heads[best][1], heads[best][2]
  heads[best] = sources[best]()
  if looked >= budget or #out >= limit then break end
  if since and time < since then
    stop_time, stop_id = '', ''
    break
  end
  looked, stop_time, stop_id = looked + 1, num(time), '=' .. id
  local row = any_epoch(id)
  if not row and best == 2 then stale[#stale + 1] = id end
  -- Listed where it was last updated; older places of it are skipped.
  if row and row.updated == time and source_of(row) == best then offer(row) end
end
return answer(stop_time, stop_id)
