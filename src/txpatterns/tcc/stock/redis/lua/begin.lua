-- A new generation begins: what is here goes. KEYS: state, items, records, due, ended. ARGV: 1 generation, 2 server.
if tonumber(redis.call('HGET', KEYS[1], 'generation') or '0') >= tonumber(ARGV[1]) then
  return {'stale'}
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'server', ARGV[2], 'number', '0', 'loaded', '0', 'ready', '0')
return {'done'}
