-- ARGV: prefixes. Answers, for each, name, row, name, row ...
local out = {}
for k = 1, #ARGV do out[k] = call('HGETALL', ARGV[k] .. 'a') end
return out
