-- Read and claim in one step. ARGV: worker, call, first number, then for each group: prefix, topic,
-- agent, epoch, limit, lease in ms, takeover (1, 0, or 2: only what this call has taken before), least idle
-- time and number of redelivery candidates, their positions.
-- Answers for each group: {tail as in read.lua, number of its first token, time, fast entries, others}. A fast
-- entry is position, id, body: granted for the first time, with the next number. Another is position, id, body, key, predecessor, and
-- the answer of the claim.
-- Events on the fast path are read with NOACK: the claim holds their position, and that is enough to find them
-- again. All others become pending entries of the worker, as if they had been read in the plain way.
local worker, called, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local out = {}

-- Candidates of a redelivery whose run nobody holds by a live claim, taken over on the bus.
local function take_over(g, s, topic, positions, limit, idle, takeover)
  local found = {}
  for _, position in ipairs(positions) do
    if #found >= limit then break end
    local entry = call('XRANGE', s, position, position)[1]
    local row = entry and load(g, (read_entry(topic, entry)))
    if row and row.position == position then
      if row.lease <= NOW and takeover then found[#found + 1] = entry end
    elseif not (row and row.token and not row.inbox and (row.lease > NOW or not takeover)) then
      local claimed = pcall_('XCLAIM', s, g.group, worker, idle, position)
      if claimed[1] and claimed[1][2] then found[#found + 1] = claimed[1] end
    end
  end
  return found
end

-- What an earlier call with this name was given, and has not arrived.
local function again(g, s, topic)
  local found, prefix = {}, called .. '.'
  local all = call('HGETALL', g.claims)
  for k = 1, #all, 2 do
    local row = unpack_claim(g, all[k + 1], all[k])
    if row.position and sub(row.token, 1, #prefix) == prefix then
      found[#found + 1] = call('XRANGE', s, row.position, row.position)[1]
    end
  end
  local reply = pcall_('XREADGROUP', 'GROUP', g.group, worker, 'STREAMS', s, '0')
  if not reply or reply.err then return found end
  for _, entry in ipairs(reply[1][2]) do
    local row = entry[2] and load(g, (read_entry(topic, entry)))
    if row and row.token and sub(row.token, 1, #prefix) == prefix then found[#found + 1] = entry end
  end
  return found
end

local at = 4
while at <= #ARGV do
  local p, topic, agent, epoch = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local limit, lease, mode, candidates = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6], tonumber(ARGV[at + 8])
  local idle = ARGV[at + 7]
  local s = p .. 's'
  local g = group_of(p, agent, epoch)
  local positions = {}
  for k = 1, candidates do positions[k] = ARGV[at + 8 + k] end
  at = at + 9 + candidates
  local found, tail, old = {}, '', 0
  if not g.alive then
    tail = false
  elseif mode == '2' then
    found = again(g, s, topic)
    old = #found
  else
    if candidates > 0 then found = take_over(g, s, topic, positions, limit, idle, mode == '1') end
    old = #found
    if old < limit then
      local new = fresh(s, g.group, worker, limit - old, true)
      if not new then
        tail = false
      else
        for k = 1, #new do found[old + k] = new[k] end
        if #found < limit then tail = #new > 0 and new[#new][1] or read_up_to(s, g.group) end
      end
    end
  end

  local first, fast, others = number, {}, {}
  if #found > 0 then
    -- What is known of these events, asked for all at once.
    local ids, bodies, keys, ps, count = {}, {}, {}, {}, #found
    for k = 1, count do ids[k], bodies[k], keys[k], ps[k] = read_entry(topic, found[k]) end
    local claims = fields(g.claims, ids, count)
    local wide = call('EXISTS', g.wide) == 1 and fields(g.wide, ids, count)
    local m = marks_of(g)
    local set, n, seen = {}, 0, {}
    local times = fmt('%013.0f%013.0f', NOW, NOW + lease)
    local owner = '\0' .. worker .. '\0'
    for k = 1, count do
      local id, plain = ids[k], k > old and not claims[k] and not (wide and wide[k]) and not keys[k] and not seen[ids[k]]
      local hash = plain and hash_of(id)
      if plain and call('HEXISTS', m.key .. bucket_of(m, hash), hash) == 0
        and not (g.old and final_run(g, id)) then
        set[2 * n + 1] = id
        set[2 * n + 2] = times .. hash .. 'n' .. called .. '.' .. number .. owner .. found[k][1] .. '\0'
        fast[3 * n + 1], fast[3 * n + 2], fast[3 * n + 3] = found[k][1], id, bodies[k]
        n, number, seen[id] = n + 1, number + 1, true
      else
        others[#others + 1] = k
      end
    end
    if n > 0 then many('HSET', g.claims, set) end
    for j, k in ipairs(others) do
      local key = keys[k]
      local after = key and unfinished_before(s, g.group, topic, ids[k], ps[k])
      local row = mode == '2' and load(g, ids[k])
      local token = row and row.token or called .. '.' .. number
      local answer = claim(g, worker, ids[k], token, lease, key, after, nil, mode ~= '0', found[k][1])
      if answer[1] == GRANTED and not row then number = number + 1 end
      if mode ~= '2' and answer[1] <= SUSPECT then remember(g, worker, found[k][1]) end
      others[j] = {found[k][1], ids[k], bodies[k], pack_opt(key), pack_opt(after), answer}
    end
  end
  out[#out + 1] = {tail, first, NOW, fast, others}
end
finish()
return out
