"""The queue's double: wake-ups in this process, done when `run` is called."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from uws_server.queue.base import Work


class MemoryQueue:
    """Coalesces like the real one: a wake-up that was not yet heard is not repeated."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._flags: set[tuple[Work, str]] = set()
        self._queues: dict[tuple[Work, str], deque[str]] = {}

    def wake(self, site: str) -> None:
        """See `uws_server.queue.base.Queue`."""
        self._put(Work.START, site)

    def stop(self, site: str) -> None:
        """See `uws_server.queue.base.Queue`."""
        self._put(Work.STOP, site)

    def taken(self, work: Work, site: str) -> None:
        """See `uws_server.queue.base.Taken`."""
        with self._guard:
            self._flags.discard((work, site))

    def run(self, work: Work, site: str, task: Callable[[str], None]) -> int:
        """Do what the site's workers of this kind would now; returns how many tasks there were.

        A task that raises is dropped, as a worker that dies drops it, and the error comes out here.
        """
        done = 0
        while True:
            with self._guard:
                queue = self._queues.get((work, site))
                if not queue:
                    return done
                queue.popleft()
            done += 1
            task(site)

    def _put(self, work: Work, site: str) -> None:
        with self._guard:
            if (work, site) not in self._flags:
                self._flags.add((work, site))
                self._queues.setdefault((work, site), deque()).append(site)
