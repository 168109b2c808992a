-- Describe a stream. ARGV: stream, prefix. Answers length, bytes, first, last, and for each group: name, lag ('' is
-- unknown), pending, last delivered, oldest unfinished position or '', readers with work or lately active.
local s = ARGV[1]
if call('EXISTS', s) == 0 then return {0} end
local function ends(from, to, command) local e = call(command, s, from, to, 'COUNT', 1)[1]; return e and e[1] or '' end
local last = ends('+', '-', 'XREVRANGE')
local out = {call('XLEN', s), call('MEMORY', 'USAGE', s), ends('-', '+', 'XRANGE'), last}
for _, info in ipairs(call('XINFO', 'GROUPS', s)) do
  local d = {}
  for k = 1, #info, 2 do d[info[k]] = info[k + 1] end
  local name, delivered = d['name'], d['last-delivered-id']
  local oldest = d['pending'] > 0 and call('XPENDING', s, name)[2] or ends('(' .. delivered, '+', 'XRANGE')
  local claimed, low = held(ARGV[2], string.match(name, '^(.*):') or '')
  if low and (oldest == '' or later(oldest, low)) then oldest = low end
  local lag, quality = d['lag'], 1
  if not lag then
    -- The server cannot tell after a deletion, or when a group began in the middle: count, up to a limit.
    lag = #call('XRANGE', s, '(' .. delivered, '+', 'COUNT', 1000)
    if lag == 1000 then quality = 0 end
  end
  local readers = {}
  for _, c in ipairs(call('XINFO', 'CONSUMERS', s, name)) do
    local r = {}
    for k = 1, #c, 2 do r[c[k]] = c[k + 1] end
    if r['pending'] > 0 or r['idle'] < 60000 then readers[#readers + 1] = r['name'] end
  end
  out[#out + 1] = {name, lag, quality, d['pending'] + claimed, delivered, oldest, readers}
end
return out
