-- The version of what is kept here, noted now where it was not: ours for an empty store, 1 for one that had
-- events before versions were noted. KEYS: schema, events. ARGV: ours.
redis.call('SETNX', KEYS[1], redis.call('EXISTS', KEYS[2]) == 1 and 1 or ARGV[1])
return redis.call('GET', KEYS[1])
