-- Let an attempt's code start in one place. KEYS: job, counts. ARGV: attempt, place. Returns 1 or 0.
local job = redis.call('HMGET', KEYS[1], 'n', 'w')
-- In line ('w') too: after a lapsed claim, of which the site had heard.
if job[1] ~= ARGV[1] or not string.find('wca', job[2] or '-', 1, true) then return 0 end
redis.call('HSETNX', KEYS[2], 'place', ARGV[2])
if redis.call('HGET', KEYS[2], 'place') == ARGV[2] then return 1 end
return 0
