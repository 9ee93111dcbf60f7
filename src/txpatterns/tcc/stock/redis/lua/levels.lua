-- ARGV: items, from 5 on.
local answer = {'levels', number}
for i = 5, #ARGV do
  local there = redis.call('HMGET', KEYS[2], 'a:' .. ARGV[i], 'r:' .. ARGV[i], 's:' .. ARGV[i])
  if there[1] then
    table.insert(answer, ARGV[i])
    table.insert(answer, there[1])
    table.insert(answer, there[2])
    table.insert(answer, there[3])
  end
end
return answer
