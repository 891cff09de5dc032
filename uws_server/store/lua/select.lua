-- The newest jobs of some lists. KEYS: one list per phase, scored by creation. ARGV: job key prefix, how
-- many, lowest score, highest score, score and id of the cursor ('' none). Returns pairs of id and hash.
-- Looks at no more than the wanted number of entries of each list, however long the lists are.
local most, cursor = tonumber(ARGV[2]), tonumber(ARGV[5])
local found = {}
for _, list in ipairs(KEYS) do
  local offset, kept = 0, 0
  repeat
    local part = redis.call('ZREVRANGEBYSCORE', list, ARGV[4], ARGV[3], 'WITHSCORES', 'LIMIT', offset, most)
    for i = 1, #part, 2 do
      local score = tonumber(part[i + 1])
      if not (cursor and score == cursor and part[i] >= ARGV[6]) then
        found[#found + 1] = {score, part[i]}
        kept = kept + 1
      end
    end
    offset = offset + most
  until #part < 2 * most or kept >= most
end
table.sort(found, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end)
local answer = {}
for i = 1, math.min(most, #found) do
  answer[#answer + 1] = found[i][2]
  answer[#answer + 1] = redis.call('HGETALL', ARGV[1] .. found[i][2])
end
return answer
