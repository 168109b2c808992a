-- Lanes: events of one key or session, one at a time and in order. A lane is a ZSET of ids by place.
local function last_place(g, lane)
  local v = call('ZRANGE', lane_key(g, lane), -1, -1, 'WITHSCORES')
  return v[2] and tonumber(v[2])
end

local function before(g, lane, seq)
  local v = call('ZRANGE', lane_key(g, lane), '(' .. fmt('%.17g', seq), '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  return v[1], v[2] and tonumber(v[2])
end

local function place(g, row, seq)
  row.seq = seq
  call('ZADD', lane_key(g, row.lane), fmt('%.17g', seq), row.id)
end

-- Keep the predecessor's place, if nobody has met it yet.
local function reserve(g, row, after)
  if load(g, after) then return end -- it has its place, or is final, or waits for an answer and holds no lane
  if marked(g, hash_of(after)) then return end
  replace_stale(g, after)
  local other = new_run(g, after)
  other.lane = row.lane
  if not row.seq then
    place(g, other, (last_place(g, row.lane) or 0) + 1)
  else
    local _, low = before(g, row.lane, row.seq)
    place(g, other, ((low or row.seq - 2) + row.seq) / 2)
  end
  save(g, other)
end

local function enter(g, row, lane, after)
  row.lane = lane
  if after then reserve(g, row, after) end
  if not row.seq then place(g, row, (last_place(g, lane) or 0) + 1) end
end

local function is_head(g, row)
  return not row.lane or not row.seq or not before(g, row.lane, row.seq)
end

-- Take a run out of its lane and let the next one go; the caller saves the run.
local function leave(g, row)
  if not row.lane or not row.seq then return end
  call('ZREM', lane_key(g, row.lane), row.id)
  row.seq = nil
  local first = call('ZRANGE', lane_key(g, row.lane), 0, 0)[1]
  local head = first and load(g, first)
  if head and head.blocked then
    head.blocked, head.due = false, NOW
    save(g, head)
  end
end
