-- Stream entries: what they say, and which event of their key comes before.

-- Whether s is well-formed UTF-8 without control characters, short enough for an event's id.
local function fit_id(s)
  if not find(s, '[^\33-\126]') then return #s > 0 and #s <= 800 end
  if #s > 800 or find(s, '%c') then return false end
  local k = 1
  while k <= #s do
    local c, more = byte(s, k), 0
    if c >= 240 and c < 245 then more = 3 elseif c >= 224 then more = 2 elseif c >= 194 then more = 1 end
    if c >= 245 or (c >= 128 and more == 0) then return false end
    for j = k + 1, k + more do
      local d = byte(s, j)
      if not d or d < 128 or d > 191 then return false end
    end
    k = k + more + 1
  end
  return true
end

-- id, body, key, predecessor ('position id') of an entry; one that is not ours is named by its place.
local function read_entry(topic, entry)
  local f = entry[2]
  if f[1] == 'i' and f[3] == 'b' and fit_id(f[2]) then
    if f[5] == 'k' then return f[2], f[4], f[6], f[7] == 'p' and f[8] or nil end
    return f[2], f[4]
  end
  local id, body = nil, nil
  for k = 1, #f, 2 do
    if f[k] == 'i' and fit_id(f[k + 1]) then id = f[k + 1] end
    if f[k] == 'b' then body = f[k + 1] end
  end
  if not body then body = #f == 2 and f[2] or concat(f, ' ') end
  return id or topic .. '@' .. entry[1], body
end

local function later(a, b) -- whether stream position a is behind b
  local x, y = find(a, '-', 1, true), find(b, '-', 1, true)
  local p, q = tonumber(sub(a, 1, x - 1)), tonumber(sub(b, 1, y - 1))
  if p ~= q then return p > q end
  return tonumber(sub(a, x + 1)) > tonumber(sub(b, y + 1))
end

-- The closest earlier event of the key that the group has been handed and has not finished.
local function unfinished_before(s, group, topic, id, p)
  local first
  for _ = 1, 200 do
    if not p then return nil end
    local space = find(p, ' ', 1, true)
    local position, other = sub(p, 1, space - 1), sub(p, space + 1)
    if not first then
      first = call('XPENDING', s, group)[2]
      if not first then return nil end
    end
    if later(first, position) then return nil end
    if other ~= id and #call('XPENDING', s, group, position, position, 1) > 0 then return other end
    local entry = call('XRANGE', s, position, position)[1]
    if not entry then return nil end
    local _, _, _, before_it = read_entry(topic, entry)
    p = before_it
  end
end

-- The position up to which a group has been handed events.
local function read_up_to(s, group)
  for _, info in ipairs(call('XINFO', 'GROUPS', s)) do
    local name, last
    for k = 1, #info, 2 do
      if info[k] == 'name' then name = info[k + 1] end
      if info[k] == 'last-delivered-id' then last = info[k + 1] end
    end
    if name == group then return last end
  end
  return '0-0'
end

-- New entries for a reader; nil when there is no such group.
-- With NOACK the server forgets at once whom it has handed them to.
local function fresh(s, group, reader, limit, noack)
  local reply
  if noack then
    reply = pcall_('XREADGROUP', 'GROUP', group, reader, 'COUNT', limit, 'NOACK', 'STREAMS', s, '>')
  else
    reply = pcall_('XREADGROUP', 'GROUP', group, reader, 'COUNT', limit, 'STREAMS', s, '>')
  end
  if not reply then return {} end
  if reply.err then
    if find(reply.err, 'NOGROUP', 1, true) then return nil end
    error(reply.err)
  end
  return reply[1][2]
end

local function acknowledge(g, positions, count)
  for from = 1, count, CHUNK do
    local to = from + CHUNK - 1
    if to > count then to = count end
    call('XACK', g.p .. 's', g.group, unpack(positions, from, to))
  end
end
