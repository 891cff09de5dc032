-- Note progress. KEYS: job, events. ARGV: attempt, progress, most events kept, id.
local job = redis.call('HMGET', KEYS[1], 'n', 'g', 's', 'o', 'p')
if job[1] ~= ARGV[1] or job[2] == ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'g', ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',
  'j', ARGV[4], 'p', job[5], 'o', job[4] or '', 's', job[3], 'k', 'progress')
return 1
