-- All is there, so calls may come. KEYS: state. ARGV: 1 generation, 2 server, 3 how many parts there were.
local state = redis.call('HMGET', KEYS[1], 'generation', 'server', 'loaded', 'ready')
if state[1] ~= ARGV[1] or state[2] ~= ARGV[2] or state[3] ~= ARGV[3] or state[4] ~= '0' then
  return {'stale'} -- something was lost on the way
end
redis.call('HSET', KEYS[1], 'ready', '1')
return {'done'}
