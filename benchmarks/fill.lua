-- Many jobs at once, by the very commands that create one. KEYS: none. ARGV: how many, the id, created
-- instant and owner to replace, then commands, each as its length and its words. Ids count on.
local most, id, created = tonumber(ARGV[1]), ARGV[2], ARGV[3]
for number = 1, most do
  local this = string.format('%s%025d', string.sub(id, 1, 1), tonumber(ARGV[4]) + number)
  local at = string.format('%.0f', tonumber(created) + tonumber(ARGV[4]) + number)
  local i = 5
  while i <= #ARGV do
    local n, words = tonumber(ARGV[i]), {}
    for w = 1, n do
      local word = string.gsub(ARGV[i + w], id, this)
      words[w] = word == created and at or word
    end
    redis.call(unpack(words))
    i = i + n + 1
  end
end
return most
