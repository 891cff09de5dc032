-- Store a new job, once. KEYS: job, idempotency key or ''. ARGV: id, fingerprint, seconds the key is kept,
-- then commands, each as its length and its words. Returns the id of the job that the key stands for,
-- or '' when the key was used with another fingerprint.
if KEYS[2] ~= '' then
  local known = redis.call('GET', KEYS[2])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    return fingerprint == ARGV[2] and id or ''
  end
  redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
end
-- The same random id means that this very call is repeated because its reply was lost.
if redis.call('EXISTS', KEYS[1]) == 1 then return ARGV[1] end
local i = 4
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return ARGV[1]
