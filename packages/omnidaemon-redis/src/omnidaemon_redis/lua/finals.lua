-- Final records. In general each is a key of its own, with a TTL unless it is a dead letter: the packed run, the
-- sizes of data and result, data, result, body.
-- What one call of finish.lua settles becomes one block: a hash of ids with a TTL, and one entry of the journal, a
-- stream by which they are listed. A done mark says in which block the record of its event is. The field NUL of a
-- block holds epoch, time of the settle and end; a record there: token, time of the claim, tenant, state, sizes of data
-- and result, the event's position, each ending in NUL; data, result, and the body unless a position stands for it.
local FINAL = {completed = true, failed = true, canceled = true, rejected = true}
local FIELDS = 25

local function encode(row)
  return concat({
    row.epoch, num(row.gen), num(row.attempt), num(row.starts), num(row.lost),
    pack_opt(row.token), pack_opt(row.worker), row.lease and num(row.lease) or '',
    pack_opt(row.op), row.inbox and '1' or '0', row.due and num(row.due) or '', row.blocked and '1' or '0',
    pack_opt(row.lane), row.seq and fmt('%.17g', row.seq) or '', pack_opt(row.question),
    num(row.chunks), row.notes and '1' or '0', pack_opt(row.spent),
    num(row.created), num(row.updated), row.expires and num(row.expires) or '',
    row.state, pack_opt(row.dead), pack_opt(row.tenant), row.where or '', '',
  }, '\0')
end

local function decode(v, id)
  local f, pos = split(v, FIELDS)
  return {
    id = id, epoch = f[1], gen = tonumber(f[2]), attempt = tonumber(f[3]), starts = tonumber(f[4]),
    lost = tonumber(f[5]), token = opt(f[6]), worker = opt(f[7]), lease = tonumber(f[8]), op = opt(f[9]),
    inbox = f[10] == '1', due = tonumber(f[11]), blocked = f[12] == '1', lane = opt(f[13]), seq = tonumber(f[14]),
    question = opt(f[15]), chunks = tonumber(f[16]), notes = f[17] == '1', spent = opt(f[18]),
    created = tonumber(f[19]), updated = tonumber(f[20]), expires = tonumber(f[21]),
    state = f[22], dead = opt(f[23]), tenant = opt(f[24]), where = f[25],
  }, pos
end

local function block_key(g, block) return g.p .. 'B:' .. g.agent .. ':' .. block end
local function journal_key(g) return g.p .. 'j:' .. g.agent end

-- An event's body, from the topic, which keeps it longer than the record is kept.
local function retained(g, position)
  local entry = call('XRANGE', g.p .. 's', position, position)[1]
  if not entry then return nil end
  local _, body = read_entry('', entry)
  return body
end

local function sized(v, at, size, result)
  local data = sub(v, at, at + size - 1)
  at = at + size
  if not result then return data, nil, sub(v, at) end
  return data, sub(v, at, at + result - 1), sub(v, at + result)
end

local function from_block(g, block, id)
  local v = call('HMGET', block_key(g, block), '\0', id)
  if not v[2] then return nil end
  local h, f, at = split(v[1] .. '\0', 3), split(v[2], 7)
  local row = {id = id, epoch = h[1], gen = 0, attempt = 1, starts = 1, lost = 0, chunks = 0, from = 'final', block = block,
    updated = tonumber(h[2]), expires = tonumber(h[3]), spent = f[1], created = tonumber(f[2]), tenant = opt(f[3]),
    state = f[4]}
  row.data, row.result, row.body = sized(v[2], at, tonumber(f[5]), tonumber(f[6]))
  if f[7] ~= '' then row.body, row.body_at = nil, f[7] end
  return row
end

local function drop_from_block(g, block, id)
  local key = block_key(g, block)
  call('HDEL', key, id)
  if call('HLEN', key) <= 1 then call('DEL', key) end
end

-- The final record of an event, of whatever epoch; nil when there is none or it has expired.
local function final_run(g, id)
  local v = call('GET', g.rec .. id)
  if v then
    local row, pos = decode(v, id)
    local f, at = split(sub(v, pos), 2)
    row.data, row.result, row.body = sized(v, at + pos - 1, tonumber(f[1]), tonumber(f[2]))
    row.from = 'final'
    return row
  end
  local m, hash = marks_of(g), hash_of(id)
  local value = mark_of(m, hash)
  local block = value and mark_block(value)
  local row = block and from_block(g, block, id)
  if row then return row end
  for epoch, count in string.gmatch(m.past, '(%d+):(%d+)') do
    value = mark_of(buckets(g, epoch, tonumber(count)), hash)
    block = value and mark_block(value)
    row = block and from_block(g, block, id)
    if row then return row end
  end
end

-- Begin a block; entries of blocks that have expired leave the journal as new ones come. Returns its name.
local function new_block(g, ttl)
  local key, fields_ = journal_key(g), {'t', num(NOW), 'x', num(NOW + ttl)}
  local block = pcall_('XADD', key, num(NOW) .. '-*', unpack(fields_))
  if type(block) == 'table' then block = call('XADD', key, '*', unpack(fields_)) end -- the clock was set back
  for _, entry in ipairs(call('XRANGE', key, '-', '+', 'COUNT', 3)) do
    if tonumber(entry[2][4]) > NOW then break end
    call('XDEL', key, entry[1])
  end
  return block
end
