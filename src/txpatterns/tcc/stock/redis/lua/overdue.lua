-- ARGV: 5 how many at most.
local found = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', whole(now()), 'LIMIT', 0, ARGV[5])
return {'overdue', number, unpack(found)}
