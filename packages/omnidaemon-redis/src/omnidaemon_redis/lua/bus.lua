-- Small bus operations. ARGV[1] says which; ARGV[2] is the stream.
local what, s = ARGV[1], ARGV[2]

if what == 'hold' then
  -- ARGV: group, reader, idle in ms ('' restarts the clock), positions. Answers 1 where it is still the reader's.
  local out, idle = {}, ARGV[5]
  for k = 6, #ARGV do
    local reply = pcall_('XPENDING', s, ARGV[3], ARGV[k], ARGV[k], 1)
    local mine = not reply.err and reply[1] and reply[1][2] == ARGV[4]
    if mine then
      if idle == '' then
        call('XCLAIM', s, ARGV[3], ARGV[4], 0, ARGV[k], 'JUSTID')
      else
        call('XCLAIM', s, ARGV[3], ARGV[4], 0, ARGV[k], 'IDLE', idle, 'JUSTID')
      end
    end
    out[#out + 1] = mine and 1 or 0
  end
  return out
elseif what == 'leave' then
  -- ARGV: group, reader. A reader with pending entries stays: removing it would lose them.
  local reply = pcall_('XPENDING', s, ARGV[3], '-', '+', 1, ARGV[4])
  if reply.err or #reply > 0 then return 0 end
  call('XGROUP', 'DELCONSUMER', s, ARGV[3], ARGV[4])
  return 1
elseif what == 'tidy' then
  -- ARGV: group, idle in ms. Remove readers that have gone and hold nothing.
  local reply, gone = pcall_('XINFO', 'CONSUMERS', s, ARGV[3]), 0
  if reply.err then return 0 end
  for _, info in ipairs(reply) do
    local d = {}
    for k = 1, #info, 2 do d[info[k]] = info[k + 1] end
    if d['pending'] == 0 and d['idle'] > tonumber(ARGV[4]) then
      call('XGROUP', 'DELCONSUMER', s, ARGV[3], d['name'])
      gone = gone + 1
    end
  end
  return gone
elseif what == 'trim' then
  -- ARGV: prefix, before in ms. Remove what is older and finished by every group.
  local floor_at = num(ARGV[4]) .. '-0'
  local reply = pcall_('XINFO', 'GROUPS', s)
  if reply.err then return 0 end
  for _, info in ipairs(reply) do
    local d = {}
    for k = 1, #info, 2 do d[info[k]] = info[k + 1] end
    local low = d['pending'] > 0 and call('XPENDING', s, d['name'])[2] or nil
    if not low then
      local e = find(d['last-delivered-id'], '-', 1, true)
      local ms, seq = tonumber(sub(d['last-delivered-id'], 1, e - 1)), tonumber(sub(d['last-delivered-id'], e + 1))
      low = seq < 2 ^ 50 and num(ms) .. '-' .. num(seq + 1) or num(ms + 1) .. '-0'
    end
    if later(floor_at, low) then floor_at = low end
    local _, claimed = held(ARGV[3], string.match(d['name'], '^(.*):') or '')
    if claimed and later(floor_at, claimed) then floor_at = claimed end
  end
  local p, old = ARGV[3], {}
  -- The last event of a key that every group has finished precedes nothing any more.
  for _, key in ipairs(call('ZRANGE', p .. 'T', '-inf', ARGV[4], 'BYSCORE', 'LIMIT', 0, 1000)) do
    local tail = call('HGET', p .. 't', key)
    if not tail or later(floor_at, split(tail, 2)[2]) then old[#old + 1] = key end
  end
  if #old > 0 then
    many('HDEL', p .. 't', old)
    many('ZREM', p .. 'T', old)
  end
  return call('XTRIM', s, 'MINID', '=', floor_at)
elseif what == 'drop' then
  -- ARGV: group.
  if call('EXISTS', s) == 1 then call('XGROUP', 'DESTROY', s, ARGV[3]) end
  return 1
elseif what == 'delete' then
  -- ARGV: prefix. Answers how many events went.
  local length = call('XLEN', s)
  call('UNLINK', s, ARGV[3] .. 't', ARGV[3] .. 'T', ARGV[3] .. 'z')
  return length
end
