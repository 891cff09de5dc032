-- Count what an attempt is about to store. KEYS: job, counts. ARGV: attempt, most bytes of results, most
-- results, most bytes of a log, then for each object its name, size, and offset ('' for a result).
-- Returns 0, or the number of the object that is over, counted from 1; then nothing is counted.
local job = redis.call('HMGET', KEYS[1], 'n', 'w')
if job[1] ~= ARGV[1] or (job[2] or '') == '' then return 1 end
local counts = redis.call('HMGET', KEYS[2], 'bytes', 'files')
local bytes, files = tonumber(counts[1]) or 0, tonumber(counts[2]) or 0
local new = {}
for i = 5, #ARGV, 3 do
  local name, size, offset = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local known = new[name] or redis.call('HGET', KEYS[2], name)
  local fits
  if offset then
    local before = known or '0 0'
    new[name] = string.format('%.0f %.0f', offset, offset + size)
    local at_end = tonumber(string.match(before, ' (%d+)$')) == offset
    fits = (at_end or new[name] == before) and offset + size <= tonumber(ARGV[4])
  else
    if not known then files = files + 1 end
    known = tonumber(known) or 0
    bytes = bytes + math.max(0, size - known)
    new[name] = string.format('%.0f', math.max(size, known))
    fits = files <= tonumber(ARGV[3]) and bytes <= tonumber(ARGV[2])
  end
  if not fits then return (i - 5) / 3 + 1 end
end
for name, value in pairs(new) do redis.call('HSET', KEYS[2], name, value) end
redis.call('HSET', KEYS[2], 'bytes', string.format('%.0f', bytes), 'files', string.format('%.0f', files))
return 0
