#!lua
-- What all scripts share: the clock, keys of a group, packed text. Scripts are this file, more files
-- of the library, and the operation, one after the other; all keys of a call lie in one slot.
local call, pcall_, tonumber, ceil, floor = redis.call, redis.pcall, tonumber, math.ceil, math.floor
local sub, byte, find, fmt, concat = string.sub, string.byte, string.find, string.format, table.concat

-- Milliseconds on the server's clock, which stands still while a script runs.
local T = call('TIME')
local NOW = T[1] * 1000 + floor(T[2] / 1000)
local CHUNK = 1000 -- unpack() has room for a few thousand values

local function num(x) return fmt('%.0f', x) end

-- Optional text: '' is none, so a value carries a mark in front.
local function opt(s) if s ~= '' then return sub(s, 2) end end
local function pack_opt(s) if s then return '=' .. s end return '' end

-- Split n fields that each end in NUL; also returns where the rest begins.
local function split(s, n)
  local out, pos = {}, 1
  for k = 1, n do
    local e = find(s, '\0', pos, true)
    out[k] = sub(s, pos, e - 1)
    pos = e + 1
  end
  return out, pos
end

-- Call a command with a key and any number of arguments, in chunks of an even size.
local function many(command, key, args, count)
  count = count or #args
  for from = 1, count, CHUNK do
    local to = from + CHUNK - 1
    if to > count then to = count end
    call(command, key, unpack(args, from, to))
  end
end

local function fields(key, names, count)
  if count <= CHUNK then return call('HMGET', key, unpack(names, 1, count)) end
  local out = {}
  for from = 1, count, CHUNK do
    local to = from + CHUNK - 1
    if to > count then to = count end
    local part = call('HMGET', key, unpack(names, from, to))
    for k = 1, #part do out[from + k - 1] = part[k] end
  end
  return out
end

-- Everything about one agent on one topic. p is '{namespace:topic}'.
local groups = {}
local function group_of(p, agent, epoch)
  local name = p .. agent .. ':' .. epoch
  local g = groups[name]
  if g then return g end
  g = {
    p = p, agent = agent, epoch = epoch, group = agent .. ':' .. epoch,
    claims = p .. 'c:' .. agent, wide = p .. 'w:' .. agent, blobs = p .. 'b:' .. agent,
    rec = p .. 'r:' .. agent .. ':', index = p .. 'i:' .. agent, dead = p .. 'd:' .. agent,
    meta = p .. 'g:' .. agent, unsent = p .. 'u:' .. agent,
    inbox = 0, working = 0, waiting = 0,
  }
  local row = call('HGET', p .. 'a', agent)
  if row then
    local f = split(row, 2)
    g.current = f[1] == epoch
    g.alive = g.current and f[2] == '0'
  end
  groups[name] = g
  return g
end

-- Write back what was counted of each group; every script that saves runs ends with it.
local function finish()
  for _, g in pairs(groups) do
    for _, name in ipairs({'inbox', 'working', 'waiting'}) do
      if g[name] ~= 0 then call('HINCRBY', g.meta, name, g[name]) end
    end
  end
end
