-- ARGV: 5 id.
local record = redis.call('HGET', KEYS[3], ARGV[5])
if record then
  parts_of(record)
end
return {'record', number, record or ''}
