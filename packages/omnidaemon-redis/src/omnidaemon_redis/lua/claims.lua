-- Who may run an event. Answers are arrays: kind, token, generation, attempt, lost, data, state, unsent, body, id.
local GRANTED, BUSY, BEHIND, SUSPECT, HELD, FINISHED, CANCELED, GONE = 0, 1, 2, 3, 4, 5, 6, 7

local function grant_of(g, row)
  return {GRANTED, row.token, row.gen, row.attempt, row.lost, data_of(g, row), row.state, 0, body_of(g, row), row.id}
end

local function finished(g, id) return {FINISHED, '', 0, 1, 0, '', 'submitted', call('HEXISTS', g.unsent, id)} end

local function start(g, row, worker, token, lease)
  row.token, row.worker, row.lease = token, worker, NOW + lease
  row.starts = row.starts + 1
  if row.state ~= 'input_required' then row.state = 'working' end
  row.updated = NOW
  save(g, row)
  return grant_of(g, row)
end

-- Claim in the fast shape where nothing is known of the event.
local function claim(g, worker, id, token, lease, lane, after, tenant, takeover, position)
  if not g.alive then return {GONE} end
  local row = load(g, id)
  if not row then
    local hash = hash_of(id)
    if marked(g, hash) then return finished(g, id) end
    if g.old then replace_stale(g, id) end
    if not lane then
      call('HSET', g.claims, id, pack_claim(hash, lease, token, worker, nil, tenant))
      return {GRANTED, token, 0, 1, 0, '', 'working', 0, '', id}
    end
    row = new_run(g, id, tenant)
  elseif FINAL[row.state] then
    if row.state == 'canceled' then return {CANCELED} end
    return finished(g, id)
  elseif row.token == token then
    return grant_of(g, row)
  elseif row.inbox then
    return {HELD}
  elseif row.token then
    if row.lease > NOW or not takeover then return {BUSY} end
    row.lost = row.lost + 1
    row.token = nil
  end
  -- A late repetition of a call whose claim has come and gone: nobody listens any more.
  if row.spent == token then return {BUSY} end
  if row.lost >= SUSPECT_AFTER then
    save(g, row)
    return {SUSPECT}
  end
  if lane then
    enter(g, row, lane, after, position)
    if not is_head(g, row) then
      save(g, row)
      return {BEHIND}
    end
  end
  return start(g, row, worker, token, lease)
end
