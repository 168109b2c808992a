-- Records of one agent, newest update first. ARGV: prefix, agent, limit, most rows to look at,
-- below this update time or '', and id (marked), since, until ('' is none), states (',completed,' or ''),
-- dead ('', 0 or 1), tenant (marked), number of event ids, event ids; with remove=1 as the last one, final
-- ones are dropped. Answers: {matches: {id, kind of shape, packed, data, body}}, and where it stopped
-- ('' at the end): time, id. With event ids there is one page only.
local p, agent, limit, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local top, below, since, till = tonumber(ARGV[5]), opt(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local states, dead, tenant, wanted = ARGV[9], ARGV[10], opt(ARGV[11]), tonumber(ARGV[12])
local removing = ARGV[#ARGV] == 'remove=1'
local row_text = call('HGET', p .. 'a', agent)
local g = group_of(p, agent, row_text and split(row_text, 1)[1] or '0')
local out = {}

local function answer(time, id)
  if removing then
    for _, row in ipairs(out) do drop(g, row) end
    out = #out
  end
  finish()
  return {out, time, id}
end

local function passed(row) -- whether it lies on an earlier page
  if not top then return false end
  if row.updated ~= top then return row.updated > top end
  return below ~= nil and row.id >= below
end

local function offer(row)
  if not row or passed(row) then return end
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
  local last = (row.from == 'wide' or row.from == 'final') and call('HGETALL', notes_key(g, row.id)) or {}
  out[#out + 1] = {row.id, encode(row), row.data, row.result and '=' .. row.result or '', row.body, last}
end

local function any_epoch(id) return load(g, id) or final_run(g, id) end

if wanted > 0 then
  for k = 13, 12 + wanted do offer(any_epoch(ARGV[k])) end
  return answer('', '')
end

-- Claims on the fast path are few, and not in the index.
local claims = {}
if dead ~= '1' and not removing then
  local all = call('HGETALL', g.claims)
  for k = 1, #all, 2 do claims[#claims + 1] = unpack_claim(g, all[k + 1], all[k]) end
  table.sort(claims, function(a, b)
    if a.updated ~= b.updated then return a.updated > b.updated end
    return a.id > b.id
  end)
end
local taken = 1
local function claims_down_to(time, id)
  while claims[taken] and #out < limit do
    local c = claims[taken]
    if time and (c.updated < time or c.updated == time and c.id < id) then return end
    taken = taken + 1
    offer(c)
  end
end

local key = dead == '1' and g.dead or g.index
local high = top or till
local offset, seen, stale = 0, 0, {}
local stop_time, stop_id = '', ''
while true do
  local step = call('ZRANGE', key, high or '+inf', since or '-inf', 'BYSCORE', 'REV', 'LIMIT', offset, 50, 'WITHSCORES')
  for k = 1, #step, 2 do
    local id, time = step[k], tonumber(step[k + 1])
    if #out >= limit or seen >= budget then break end
    claims_down_to(time, id)
    if #out >= limit then break end
    seen, stop_time, stop_id = seen + 1, num(time), '=' .. id
    local row = any_epoch(id)
    if row and row.from ~= 'claim' then
      offer(row)
    elseif not row then
      stale[#stale + 1] = id
    end
  end
  offset = offset + 50
  if #step < 100 then
    if #out < limit and seen < budget then
      claims_down_to(nil)
      if #out < limit then stop_time, stop_id = '', '' end
    end
    break
  end
  if #out >= limit or seen >= budget then break end
end
if #out >= limit and not removing then
  stop_time, stop_id = num(decode(out[#out][2], '').updated), '=' .. out[#out][1]
end
if #stale > 0 then
  many('ZREM', g.index, stale)
  many('ZREM', g.dead, stale)
end
return answer(stop_time, stop_id)
