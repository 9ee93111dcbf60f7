-- ARGV: 5 id.
return {'record', number, redis.call('HGET', KEYS[3], ARGV[5]) or ''}
