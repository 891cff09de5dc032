-- A job at one instant: its hash, its parameters, its outcome. KEYS: those three.
return {redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])}
