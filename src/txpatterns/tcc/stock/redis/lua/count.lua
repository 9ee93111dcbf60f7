-- The ledger has counted an item. ARGV: 5 item, 6 version of the count, 7 what there is in all.
-- Reservations never change the sum, so it does not matter which of them have reached the ledger, or this, first.
local item = ARGV[5]
local there = redis.call('HMGET', KEYS[2], 'v:' .. item, 'r:' .. item, 's:' .. item)
if tonumber(there[1] or '0') < tonumber(ARGV[6]) then
  count()
  local reserved, sold = tonumber(there[2] or '0'), tonumber(there[3] or '0')
  redis.call('HSET', KEYS[2], 'v:' .. item, ARGV[6], 'a:' .. item, whole(tonumber(ARGV[7]) - reserved - sold),
    'r:' .. item, whole(reserved), 's:' .. item, whole(sold))
end
return {'done', number}
