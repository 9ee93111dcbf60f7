-- What every call begins with. KEYS: state, items, records, due, ended.
-- ARGV: 1 generation, 2 the highest number that the caller has seen, 3 the server that it is connected to, 4 clock.
local state = redis.call('HMGET', KEYS[1], 'generation', 'ready', 'server', 'number')
if state[1] ~= ARGV[1] or state[2] ~= '1' then
  return {'closed'}
end
local number = tonumber(state[4])
if state[3] ~= ARGV[3] or number < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'ready', '0')
  return {'lost'}
end

local function whole(n)
  return string.format('%.0f', n)
end

-- Milliseconds since 1970: this server's clock, or that of a test.
local function now()
  if string.sub(ARGV[4], 1, 1) == '=' then
    return tonumber(string.sub(ARGV[4], 2))
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])
end

-- The running number counts all that changes, so that a server that has lost any of it falls behind who saw it.
local function count()
  number = redis.call('HINCRBY', KEYS[1], 'number', 1)
end

-- A record is: state, until, prolonged, hold, lines; of a refused one, what there was too little of in a second line.
local function record_of(kind, til, prolonged, hold, lines)
  return kind .. ' ' .. til .. ' ' .. prolonged .. ' ' .. hold .. ' ' .. lines
end

local function parts_of(record)
  local kind, til, prolonged, hold, lines = string.match(record, '^(%S+) (%d+) (%d) (%S+) ([^\n]*)')
  if not kind then
    error('a record that nobody has written')
  end
  return kind, til, prolonged, hold, lines
end

-- Ended records go when no reservation that they answer for can still arrive in time.
local function remember(id, record, at)
  redis.call('HSET', KEYS[3], id, record)
  redis.call('ZADD', KEYS[5], whole(at), id)
end

local function forget_some(at)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', whole(at), 'LIMIT', 0, 2)) do
    redis.call('HDEL', KEYS[3], id)
    redis.call('ZREM', KEYS[5], id)
  end
end
