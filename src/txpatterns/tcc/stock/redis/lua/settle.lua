-- The ledger has ended a reservation. ARGV: 5 id, 6 state, 7 the hold that the ledger knows, 8 skew, 9 longest.
local id, kind = ARGV[5], ARGV[6]
local at = now()
forget_some(at)
local record = redis.call('HGET', KEYS[3], id)
if not record then
  if kind == 'released' then
    count()
    remember(id, record_of('released', '0', '0', '0.0', '[]'), at + tonumber(ARGV[8]) + tonumber(ARGV[9]))
  end
  return {'done', number}
end
local was, til, prolonged, hold, lines = parts_of(record)
if was ~= 'held' then
  return {'done', number}
end
count()
-- A hold that is not the ledger's was made behind its back, and goes back.
local to = (kind == 'sold' and hold == ARGV[7]) and 's:' or 'a:'
for _, line in ipairs(cjson.decode(lines)) do
  redis.call('HINCRBY', KEYS[2], 'r:' .. line[1], '-' .. whole(line[2]))
  redis.call('HINCRBY', KEYS[2], to .. line[1], whole(line[2]))
end
redis.call('ZREM', KEYS[4], id)
remember(id, record_of(kind, til, prolonged, hold, lines), math.max(at, tonumber(til)) + tonumber(ARGV[8]))
return {'done', number}
