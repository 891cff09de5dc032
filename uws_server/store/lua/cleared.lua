-- A job's content was cleared away. KEYS: notes for clearance, job, then what else belongs to its record.
-- ARGV: id, the version that was seen ('' = there was none), 1 to forget the record. Returns 0, with
-- nothing done, when the job is another by now.
if (redis.call('HGET', KEYS[2], 'v') or '') ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[3] == '1' then redis.call('DEL', unpack(KEYS, 2)) end
return 1
