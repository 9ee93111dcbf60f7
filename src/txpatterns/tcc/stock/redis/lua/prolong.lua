-- The ledger has put off a reservation's time. ARGV: 5 id, 6 until.
local record = redis.call('HGET', KEYS[3], ARGV[5])
if record then
  local kind, til, _, hold, lines = parts_of(record)
  if kind == 'held' and tonumber(til) < tonumber(ARGV[6]) then
    count()
    redis.call('HSET', KEYS[3], ARGV[5], record_of(kind, ARGV[6], '1', hold, lines))
    redis.call('ZADD', KEYS[4], ARGV[6], ARGV[5])
  end
end
return {'done', number}
