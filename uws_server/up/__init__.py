"""``uws-server up``: everything on one machine, as children of one process in the foreground."""
