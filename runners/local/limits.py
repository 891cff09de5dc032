"""What a tree of processes may use, and what becomes of one that goes beyond it."""

from __future__ import annotations

import time

from runners.local import processes
from runners.local.disk_watch import DiskWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runners.local import cgroups, process_tree

_MEMORY_TICK = 0.1


class Limits:
    """Ends a tree that goes beyond its limits, or is to stop: SIGTERM first, SIGKILL in time."""

    def __init__(self, plan: dict[str, Any], tree: process_tree.Tree, group: cgroups.Cgroup | None) -> None:
        self._limits = plan["limits"]
        self._tree = tree
        self._group = group
        begun = time.monotonic()
        duration = self._limits["duration"]
        self._deadline = begun + duration if duration else None
        self._disk = DiskWatch(plan["work"], self._limits["disk"], self._limits["output"])
        self._memory_due = None if group and "memory" in group.directories else begun
        self._kill_at: float | None = None
        self.cause: str | None = None  # why we ended it
        self.words = ""  # what it wrote too much of

    def due(self) -> float:
        """When `enforce` has something to do next."""
        times = [self._kill_at, self._disk.due, self._memory_due]
        if self.cause is None:
            times.append(self._deadline)
        return min(at for at in times if at is not None)

    def enforce(self, stop_asked: bool) -> None:
        """Do what is due."""
        moment = time.monotonic()
        if self._kill_at is not None and moment >= self._kill_at:
            self._tree.kill()
            self._kill_at = moment + 1
        if self.cause is None and stop_asked:
            self._end("stopped", self._limits["grace"])
        if self.cause is None and self._deadline is not None and moment >= self._deadline:
            self._end("timed-out", self._limits["grace"])
        if moment >= self._disk.due:
            found = self._disk.look(self._pids)
            if found and not self.words:
                self.words = found
                self._end(self.cause or "out-of-disk", 1.0)  # it may be writing on meanwhile
        if self._memory_due is not None and moment >= self._memory_due:
            self._look_at_memory(moment)

    def _look_at_memory(self, moment: float) -> None:
        if processes.memory_of(self._tree.members(), self._limits["memory"]) > self._limits["memory"]:
            self.cause = self.cause or "out-of-memory"
            self._tree.kill()
        self._memory_due = time.monotonic() + max(_MEMORY_TICK, 20 * (time.monotonic() - moment))

    def _end(self, cause: str, patience: float) -> None:
        self.cause = cause
        self._kill_at = time.monotonic() + min(patience, self._limits["grace"] / 2)
        self._tree.terminate()

    def _pids(self) -> set[int]:
        if self._group is not None:
            return self._group.members()
        return {process.pid for process in self._tree.members()}
