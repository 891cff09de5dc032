-- Take the next job that fits. KEYS: owners with waiting jobs (by when they were last served), use of
-- the site, claims by lapse. ARGV: key prefix of the site's lines, key prefix of jobs, most jobs, most
-- cpu, most memory, lease in ms, how many owners to look at. Returns the id, or false.
local used = redis.call('HMGET', KEYS[2], 'jobs', 'cpu', 'memory')
local jobs, cpu, memory = tonumber(used[1]) or 0, tonumber(used[2]) or 0, tonumber(used[3]) or 0
if jobs >= tonumber(ARGV[3]) then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, owner in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[7] - 1)) do
  local line = ARGV[1] .. owner
  local id = redis.call('ZRANGE', line, 0, 0)[1]
  if not id then
    redis.call('ZREM', KEYS[1], owner)
  else
    local job = ARGV[2] .. id
    local asked = redis.call('HMGET', job, 'v', 'k', 'm')
    local wants_cpu, wants_memory = tonumber(asked[2]) or 0, tonumber(asked[3]) or 0
    if cpu + wants_cpu <= tonumber(ARGV[4]) and memory + wants_memory <= tonumber(ARGV[5]) then
      redis.call('ZREM', line, id)
      if redis.call('EXISTS', line) == 1 then
        redis.call('ZADD', KEYS[1], now, owner)
      else
        redis.call('ZREM', KEYS[1], owner)
      end
      redis.call('HINCRBY', KEYS[2], 'jobs', 1)
      redis.call('HINCRBY', KEYS[2], 'cpu', wants_cpu)
      redis.call('HINCRBY', KEYS[2], 'memory', wants_memory)
      redis.call('HSET', job, 'v', asked[1] + 1, 'w', 'c')
      redis.call('ZADD', KEYS[3], now + ARGV[6], id)
      return id
    end
  end
end
return false
