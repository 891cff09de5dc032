-- One line of figures for wrk. METHOD, BODY and WANTED (the status that counts) come from the
-- environment; PATHS names a file of paths to go through, otherwise the URL given is asked for.
wrk.method = os.getenv("METHOD") or "GET"
if wrk.method == "POST" then
  wrk.body = os.getenv("BODY")
  wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
end
local wanted = tonumber(os.getenv("WANTED") or "200")
local paths, at = {}, 0
local list = os.getenv("PATHS") and io.open(os.getenv("PATHS"))
if list then
  for line in list:lines() do paths[#paths + 1] = line end
  function request()
    at = at % #paths + 1
    return wrk.format(nil, paths[at])
  end
end
local threads = {}
function setup(thread) table.insert(threads, thread) end
right, wrong = 0, 0
function response(status) if status == wanted then right = right + 1 else wrong = wrong + 1 end end
function done(summary, latency)
  local good, bad = 0, 0
  for _, thread in ipairs(threads) do good, bad = good + thread:get("right"), bad + thread:get("wrong") end
  local e = summary.errors
  io.write(string.format('{"rate": %.1f, "wrong": %d, "faults": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    good / (summary.duration / 1e6), bad, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
