-- ARGV: 5 id, 6 lines, 7 until, 8 skew, 9 longest.
local id, lines, til = ARGV[5], ARGV[6], tonumber(ARGV[7])
local record = redis.call('HGET', KEYS[3], id)
if record then -- before the stock is looked at: a repeat is answered as before, also when nothing is left
  parts_of(record)
  return {'known', number, record}
end
local at = now()
if at > til + tonumber(ARGV[8]) then
  return {'late', number}
end
if til > at + tonumber(ARGV[9]) then
  return {'far', number}
end
forget_some(at)
local wanted, fields = cjson.decode(lines), {}
for i, line in ipairs(wanted) do
  fields[i] = 'a:' .. line[1]
end
local there = redis.call('HMGET', KEYS[2], unpack(fields))
local unknown, short = {'unknown', number}, {}
for i, line in ipairs(wanted) do
  if not there[i] then
    table.insert(unknown, line[1])
  elseif tonumber(there[i]) < line[2] then
    table.insert(short, {line[1], math.max(0, tonumber(there[i]))})
  end
end
if #unknown > 2 then
  return unknown
end
if #short > 0 then
  record = record_of('refused', ARGV[7], '0', '0.0', lines) .. '\n' .. cjson.encode(short)
  remember(id, record, til + tonumber(ARGV[8]))
  return {'known', number, record}
end
for _, line in ipairs(wanted) do
  redis.call('HINCRBY', KEYS[2], 'a:' .. line[1], '-' .. whole(line[2]))
  redis.call('HINCRBY', KEYS[2], 'r:' .. line[1], whole(line[2]))
end
count()
record = record_of('held', ARGV[7], '0', ARGV[1] .. '.' .. whole(number), lines)
redis.call('HSET', KEYS[3], id, record)
redis.call('ZADD', KEYS[4], ARGV[7], id)
return {'known', number, record}
