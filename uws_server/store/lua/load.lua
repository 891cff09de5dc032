-- What waits for a site, and what it runs. KEYS: owners with waiting jobs, use of the site. ARGV: key prefix of the
-- site's lines, how many owners to look at. Returns how many owners there are, jobs in the lines looked at, when the
-- first of them was queued in ms ('' for none), attempts, and the time in ms.
local jobs, oldest = 0, nil
for _, owner in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  local line = ARGV[1] .. owner
  jobs = jobs + redis.call('ZCARD', line)
  local first = tonumber(redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
  if first and (not oldest or first < oldest) then oldest = first end
end
local time = redis.call('TIME')
return {
  redis.call('ZCARD', KEYS[1]), jobs, oldest and string.format('%.0f', oldest) or '',
  tonumber(redis.call('HGET', KEYS[2], 'jobs')) or 0, time[1] * 1000 + math.floor(time[2] / 1000),
}
