-- The record of a run, in one of three shapes:
--   a claim on the fast path, a short field of the hash `claims`: first attempt, nothing else known;
--   a live run, a field of the hash `wide`, its data and body as fields of `blobs`;
--   a final run, see finals.lua.
local SUSPECT_AFTER = 2

local function new_run(g, id, tenant)
  return {id = id, epoch = g.epoch, gen = 0, attempt = 1, starts = 0, lost = 0, chunks = 0, state = 'submitted',
    created = NOW, updated = NOW, tenant = tenant, data = '', body = ''}
end

-- A short claim: claimed at (13 digits), lease until (13), hash of the id (20), 'n' if its event is not among
-- the group's pending entries, else 'p', token, worker, the event's position, tenant.
local TOKEN_AT = 48
local function pack_claim(hash, lease, token, worker, position, tenant)
  return fmt('%013.0f%013.0f', NOW, NOW + lease) .. hash .. (position and 'n' or 'p') .. token .. '\0' .. worker .. '\0'
    .. (position or '') .. '\0' .. pack_opt(tenant)
end

local function unpack_claim(g, v, id)
  local f, pos = split(sub(v, TOKEN_AT), 3)
  local at = tonumber(sub(v, 1, 13))
  return {id = id, epoch = g.epoch, gen = 0, attempt = 1, starts = 1, lost = 0, chunks = 0, state = 'working',
    token = f[1], worker = f[2], lease = tonumber(sub(v, 14, 26)), hash = sub(v, 27, 46), created = at, updated = at,
    tenant = opt(sub(v, TOKEN_AT - 1 + pos)), data = '', body = '', from = 'claim', tail = sub(v, 27),
    claimant = f[2], position = sub(v, 47, 47) == 'n' and f[3] or nil}
end

-- Which ready index a run belongs to, and when it is ready: of runs that are claimed (until the claim
-- expires) or not, apart from those that are suspects.
local function ready(row)
  if not row.inbox or FINAL[row.state] then return nil end
  local suspect = row.lost >= SUSPECT_AFTER
  if row.token then return suspect and 'X:' or 'x:', row.lease end
  if row.blocked or not row.due then return nil end
  return suspect and 'Q:' or 'q:', row.due
end

local function note_shape(row)
  row.was_zset, row.was_ready = ready(row)
  row.was_updated, row.was_inbox = row.updated, row.inbox and row.state ~= 'input_required'
  row.was_working, row.was_waiting = row.token ~= nil, row.state == 'input_required'
  return row
end

-- The live or final run of this epoch, or nil.
local function load(g, id)
  local v = call('HGET', g.claims, id)
  if v then return unpack_claim(g, v, id) end
  v = call('HGET', g.wide, id)
  if v then
    local row = decode(v, id)
    row.from = 'wide'
    return note_shape(row)
  end
  local row = final_run(g, id)
  if row and row.epoch == g.epoch then return row end
end

local function data_of(g, row)
  if not row.data then row.data = call('HGET', g.blobs, 'd' .. row.id) or '' end
  return row.data
end

local function body_of(g, row)
  if not row.body then row.body = row.body_at and retained(g, row.body_at) or call('HGET', g.blobs, 'b' .. row.id) or '' end
  return row.body
end

local function owned(g, id, token)
  if not g.current then return nil end
  local row = load(g, id)
  if row and row.token == token and not FINAL[row.state] then return row end
end

local function lane_key(g, lane) return g.p .. 'l:' .. g.agent .. ':' .. lane end
local function notes_key(g, id) return g.p .. 'n:' .. g.agent .. ':' .. id end
local function progress_key(g, id) return g.p .. 'p:' .. g.agent .. ':' .. id end

local function count_shape(g, row, gone)
  local inbox = not gone and row.inbox and row.state ~= 'input_required'
  local working = not gone and row.token ~= nil
  local waiting = not gone and row.state == 'input_required'
  g.inbox = g.inbox + (inbox and 1 or 0) - (row.was_inbox and 1 or 0)
  g.working = g.working + (working and 1 or 0) - (row.was_working and 1 or 0)
  g.waiting = g.waiting + (waiting and 1 or 0) - (row.was_waiting and 1 or 0)
end

-- Remove a run's own places: its shape, its index entries and, where asked, notes and progress.
local function unplace(g, row)
  if row.from == 'claim' then
    call('HDEL', g.claims, row.id)
  elseif row.from == 'wide' then
    call('HDEL', g.wide, row.id)
    call('HDEL', g.blobs, 'd' .. row.id, 'b' .. row.id)
    if row.was_zset then call('ZREM', g.p .. row.was_zset .. g.agent, row.id) end
  elseif row.from == 'final' then
    if row.block then drop_from_block(g, row.block, row.id) else call('DEL', g.rec .. row.id) end
    if row.dead_kept then call('ZREM', g.dead, row.id) end
  end
end

local function drop(g, row)
  row.dead_kept = row.dead
  unplace(g, row)
  count_shape(g, row, true)
  call('ZREM', g.index, row.id)
  if row.lane and row.seq then call('ZREM', lane_key(g, row.lane), row.id) end
  call('DEL', notes_key(g, row.id), progress_key(g, row.id))
end

-- Make the group's server remember that it has handed an event to a worker, so that it comes again.
local function remember(g, worker, position)
  pcall_('XCLAIM', g.p .. 's', g.group, worker, 0, position, 'FORCE', 'JUSTID')
end

-- Write a live run in its wide shape.
local function save(g, row)
  if row.position and not row.inbox then remember(g, row.worker or row.claimant, row.position) end
  row.position = nil
  if row.from ~= 'wide' then
    data_of(g, row)
    body_of(g, row)
    row.dead_kept = row.from == 'final'
    unplace(g, row)
    if row.from == 'final' and row.notes then call('PERSIST', notes_key(g, row.id)) end
    row.was_updated, row.write_data, row.write_body = nil, row.data ~= '', row.body ~= ''
  end
  call('HSET', g.wide, row.id, encode(row))
  if row.write_data then call('HSET', g.blobs, 'd' .. row.id, row.data) end
  if row.write_body then call('HSET', g.blobs, 'b' .. row.id, row.body) end
  local zset, at = ready(row)
  if row.was_zset and row.was_zset ~= zset then call('ZREM', g.p .. row.was_zset .. g.agent, row.id) end
  if zset and (zset ~= row.was_zset or at ~= row.was_ready) then call('ZADD', g.p .. zset .. g.agent, at, row.id) end
  if row.updated ~= row.was_updated then call('ZADD', g.index, row.updated, row.id) end
  count_shape(g, row)
  row.from, row.write_data, row.write_body = 'wide', nil, nil
  note_shape(row)
end

-- Write a run that has its outcome; a TTL of 0 or less keeps nothing.
local function save_final(g, row, ttl)
  data_of(g, row)
  body_of(g, row)
  row.dead_kept = row.from == 'final'
  unplace(g, row)
  row.expires = ttl and NOW + ttl or nil
  count_shape(g, row, true)
  local v = encode(row) .. num(#row.data) .. '\0' .. (row.result and num(#row.result) or '') .. '\0'
    .. row.data .. (row.result or '') .. row.body
  if ttl and ttl <= 0 then
    call('ZREM', g.index, row.id)
    call('DEL', notes_key(g, row.id))
  else
    if ttl then
      call('SET', g.rec .. row.id, v, 'PX', num(ttl))
      if row.notes then call('PEXPIRE', notes_key(g, row.id), num(ttl)) end
    else
      call('SET', g.rec .. row.id, v)
    end
    call('ZADD', g.index, row.updated, row.id)
    if row.dead then call('ZADD', g.dead, row.updated, row.id) end
  end
  row.from, row.was_zset, row.was_inbox, row.was_working, row.was_waiting = 'final', nil, nil, nil, nil
end

-- An older run of the same event is in the way of a new one: it is of an epoch that has ended.
local function replace_stale(g, id)
  local row = final_run(g, id)
  if row and row.epoch ~= g.epoch then drop(g, row) end
end
