"""Where jobs run.

`worker` launches what the queue gives it, `watcher` turns what a runner observes into phase changes,
`tasks` is what RQ calls, `sites` makes a site's runner from its settings. A runner keeps the protocol
of `base`; each has a room of its own: `fake`, `local`. `agent` and `notebook` are the programs that
run beside and as the user's code, wherever that is.
"""
