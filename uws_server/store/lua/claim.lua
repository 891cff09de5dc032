-- Take the next job that fits. KEYS: owners with waiting jobs by the turn they last had, use of the
-- site, claims by lapse, last turn of every owner, counter of turns. ARGV: key prefix of the site's lines, key prefix of jobs, most jobs, most
-- cpu, most memory, lease in ms, how many owners to look at. Returns the id, or false.
local used = redis.call('HMGET', KEYS[2], 'jobs', 'cpu', 'memory')
local jobs, cpu, memory = tonumber(used[1]) or 0, tonumber(used[2]) or 0, tonumber(used[3]) or 0
if jobs >= tonumber(ARGV[3]) then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Who has come to the line since has turn 0: it takes the turn remembered, lest leaving and coming
-- back be a way to the front.
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, 0, 'LIMIT', 0, ARGV[7])) do
  redis.call('ZADD', KEYS[1], redis.call('HGET', KEYS[4], owner) or 1, owner)
end
for _, owner in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[7] - 1)) do
  local line = ARGV[1] .. owner
  local id = redis.call('ZRANGE', line, 0, 0)[1]
  if not id then
    redis.call('ZREM', KEYS[1], owner)
  else
    local job = ARGV[2] .. id
    local asked = redis.call('HMGET', job, 'v', 'k', 'm')
    local wants_cpu, wants_memory = tonumber(asked[2]) or 0, tonumber(asked[3]) or 0
    if not asked[1] then
      redis.call('ZREM', line, id) -- no such job: it must not keep its owner's line from moving
    elseif wants_cpu > tonumber(ARGV[4]) or wants_memory > tonumber(ARGV[5])
      -- What never fits is given out too, lest it keep back its owner's others: the worker says so of it.
      or cpu + wants_cpu <= tonumber(ARGV[4]) and memory + wants_memory <= tonumber(ARGV[5]) then
      redis.call('ZREM', line, id)
      local turn = redis.call('INCR', KEYS[5]) + 1
      redis.call('HSET', KEYS[4], owner, turn)
      if redis.call('EXISTS', line) == 1 then
        redis.call('ZADD', KEYS[1], turn, owner)
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
