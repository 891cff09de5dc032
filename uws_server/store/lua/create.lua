-- Store a new job, once. KEYS: job, idempotency key or '', notes for clearance or ''. ARGV: id, fingerprint,
-- seconds the key is kept, then commands, each as its length and its words. Returns the id of the job that
-- the key stands for, or '' when the key was used with another fingerprint, or '!' when the clearance of the
-- job's content is due or was not scheduled.
-- The same random id means that this very call is repeated because its reply was lost.
if redis.call('EXISTS', KEYS[1]) == 1 then return ARGV[1] end
if KEYS[2] ~= '' then
  local known = redis.call('GET', KEYS[2])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    return fingerprint == ARGV[2] and id or ''
  end
end
if KEYS[3] ~= '' then
  local clearance, time = redis.call('ZSCORE', KEYS[3], ARGV[1]), redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if not clearance or tonumber(clearance) <= now then return '!' end
  redis.call('ZREM', KEYS[3], ARGV[1])
end
if KEYS[2] ~= '' then redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3]) end
local i = 4
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return ARGV[1]
