-- Compare and set. KEYS: job, lease or ''. ARGV: expected version, fence, then commands, each as its
-- length and its words. Returns 1, or 0 when the job has another version by now, or -1 when the lease
-- is no longer held with this fence.
if KEYS[2] ~= '' and redis.call('HGET', KEYS[2], 'fence') ~= ARGV[2] then return -1 end
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
local i = 3
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return 1
