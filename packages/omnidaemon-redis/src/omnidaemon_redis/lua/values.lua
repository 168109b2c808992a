-- Small values with versions, of one name space. ARGV[1] is what to do: get, put or scan. ARGV[2] is the
-- stem of the keys: hash of packed values, ZSET of names, ZSET of names by expiry.
local stem = ARGV[2]
local rows, names, expiry = stem .. 'v', stem .. 'n', stem .. 'e'

local function read(name)
  local v = call('HGET', rows, name)
  if not v then return nil end
  local f, pos = split(v, 2)
  if f[2] ~= '' and tonumber(f[2]) <= NOW then return nil end
  return f[1], sub(v, pos)
end

local function remove(name)
  call('HDEL', rows, name)
  call('ZREM', names, name)
  call('ZREM', expiry, name)
end

if ARGV[1] == 'get' then
  local out = {}
  for k = 3, #ARGV do
    local version, value = read(ARGV[k])
    out[k - 2] = version and {version, value} or false
  end
  return out
elseif ARGV[1] == 'scan' then
  local out, after, limit = {}, ARGV[3] == '' and '-' or '(' .. sub(ARGV[3], 2), tonumber(ARGV[4])
  while #out < limit do
    local page = call('ZRANGE', names, after, '+', 'BYLEX', 'LIMIT', 0, limit)
    for _, name in ipairs(page) do
      local version, value = read(name)
      if version and #out < limit then out[#out + 1] = {name, version, value} end
    end
    if #page < limit then break end
    after = '(' .. page[#page]
  end
  return out
end

-- put: for each name, 1 with a value or 0 without, value, ttl in ms or '', expected version or ''.
for _, name in ipairs(call('ZRANGE', expiry, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, 20)) do remove(name) end
local out = {}
for at = 3, #ARGV, 5 do
  local name, ttl = ARGV[at], tonumber(ARGV[at + 3])
  local version = tonumber(read(name) or 0)
  local ok = ARGV[at + 4] == '' or tonumber(ARGV[at + 4]) == version
  out[#out + 1] = ok and 1 or 0
  if ok and ARGV[at + 1] == '0' then
    remove(name)
  elseif ok then
    call('HSET', rows, name, num(version + 1) .. '\0' .. (ttl and num(NOW + ttl) or '') .. '\0' .. ARGV[at + 2])
    call('ZADD', names, 0, name)
    if ttl then call('ZADD', expiry, NOW + ttl, name) else call('ZREM', expiry, name) end
  end
end
return out
