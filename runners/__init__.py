"""Where jobs run.

`worker` starts and stops attempts when it is woken, `watcher` turns what a runner observes into phase
changes, `tasks` is what RQ calls, `sites` makes a site's runner from its settings. A runner keeps the
protocol of `base`; each has a room of its own: `fake`, `local`, `kubernetes`. `ending` says how an
attempt ended, the same at every site. `agent`, `notebook` and `wrapper` are the programs that run beside,
as and around the user's code, wherever that is.
"""
