-- Take or renew a lease. KEYS: lease, counter of fences. ARGV: holder, ms. Returns the fence, or false.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return false end
if not holder then
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'fence', redis.call('INCR', KEYS[2]))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'fence')
