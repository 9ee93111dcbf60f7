-- A part of what the ledger has. KEYS: state, items, records, due, ended, rebuilding.
-- ARGV: 1 generation, 2 items (name, version, available, reserved, sold), 3 held (id, until, record), 4 time for the rest.
local state = redis.call('HMGET', KEYS[1], 'generation', 'ready', 'loaded')
if state[1] ~= ARGV[1] or state[2] ~= '0' then
  return {'stale'}
end
for _, item in ipairs(cjson.decode(ARGV[2])) do
  redis.call('HSET', KEYS[2], 'v:' .. item[1], item[2], 'a:' .. item[1], item[3], 'r:' .. item[1], item[4],
    's:' .. item[1], item[5])
end
for _, held in ipairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', KEYS[3], held[1], held[3])
  redis.call('ZADD', KEYS[4], held[2], held[1])
end
redis.call('PEXPIRE', KEYS[6], ARGV[4])
redis.call('HINCRBY', KEYS[1], 'loaded', 1)
return {'done'}
