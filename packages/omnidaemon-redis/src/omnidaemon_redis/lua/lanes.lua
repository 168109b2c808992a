-- Lanes: events of one key or session, one at a time and in the bus's order. A lane is a ZSET of ids by place.
local function member(g, lane, first, last, ...)
  local v = call('ZRANGE', lane_key(g, lane), first, last, ...)
  return v[1] and load(g, v[1])
end

local function before(g, lane, seq)
  return member(g, lane, '(' .. fmt('%.17g', seq), '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)
end

-- Whether position a lies behind position b: the numbers in them are compared, one after the other.
local function behind(a, b)
  local others = string.gmatch(b, '%d+')
  for x in string.gmatch(a, '%d+') do
    local y = others()
    if not y then return true end
    x, y = string.match(x, '^0*(.*)'), string.match(y, '^0*(.*)')
    if #x ~= #y then return #x > #y end
    if x ~= y then return x > y end
  end
  return false
end

-- A place behind one run and before another, either of which there may not be.
local function between(low, high)
  if not high then return low and low.seq + 1 or 1 end
  return low and (low.seq + high.seq) / 2 or high.seq - 1
end

local function place(g, row, seq)
  row.seq = seq
  call('ZADD', lane_key(g, row.lane), fmt('%.17g', seq), row.id)
end

-- Whether a run of a lane has its turn already: it runs, or `due` may hand it out.
local function begun(row) return row.token ~= nil or row.inbox and not row.blocked end

-- Find the place: behind what lies before it on the bus, before what lies behind and has not begun.
local function settle_down(g, row)
  local other, following = member(g, row.lane, -1, -1), nil
  if row.where == '' and other then row.where = other.where end
  while other and behind(other.where, row.where) and not begun(other) do
    following, other = other, before(g, row.lane, other.seq)
  end
  place(g, row, between(other, following))
end

-- Keep the predecessor's place, if nobody has met it yet.
local function reserve(g, row, after)
  if load(g, after) then return end -- it has its place, or is final, or waits for an answer and holds no lane
  if marked(g, hash_of(after)) then return end
  replace_stale(g, after)
  local other = new_run(g, after)
  other.lane, other.where = row.lane, row.where
  place(g, other, between(before(g, row.lane, row.seq), row))
  save(g, other)
end

-- Give a run its place, and its predecessor too. What has no position of its own goes behind all that wait.
local function enter(g, row, lane, after, where)
  row.lane = lane
  if not row.seq then
    row.where = where or ''
    settle_down(g, row)
  elseif where and where ~= '' then
    row.where = where -- until now the place was a reservation, under its successor's position
  end
  if after then reserve(g, row, after) end
end

local function is_head(g, row)
  return not row.lane or not row.seq
    or #call('ZRANGE', lane_key(g, row.lane), '-inf', '(' .. fmt('%.17g', row.seq), 'BYSCORE', 'LIMIT', 0, 1) == 0
end

-- Take a run out of its lane and let the next one go; the caller saves the run.
local function leave(g, row)
  if not row.lane or not row.seq then return end
  call('ZREM', lane_key(g, row.lane), row.id)
  row.seq = nil
  local head = member(g, row.lane, 0, 0)
  if head and head.blocked then
    head.blocked, head.due = false, NOW
    save(g, head)
  end
end
