-- Give a lease back. KEYS: lease. ARGV: fence.
if redis.call('HGET', KEYS[1], 'fence') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
