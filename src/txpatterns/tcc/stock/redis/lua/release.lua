-- Whoever rebuilds is done, or gives up. KEYS: rebuilding. ARGV: 1 token.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return {'done'}
