"""The local runner: each attempt is a tree of processes under a supervisor of its own, on this machine."""
