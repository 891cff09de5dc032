"""Has a site forget what has ended, beside the watcher's passes: news of other attempts must not wait for it.

What is asked for here is in no record, and need not be: an attempt that the site still has is seen by the
next watcher, which finds its end recorded and asks again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Protocol

from runners.base import Attempt, Unreachable

log = logging.getLogger(__name__)

_AT_ONCE = 4
_PAUSE = 1.0  # s after a failure, of the thread that saw it, and of the attempt: that one's doubles each time
_LONGEST_PAUSE = 300.0  # s
_LAST = 5.0  # s in which all that is under way may end; `up` gives the watcher 15


class Forgets(Protocol):
    """The part of a runner that is needed here; a few threads call it at once."""

    def forget(self, job_id: str, attempt: int) -> None:
        """See `runners.base.Runner.forget`."""


class Forgetting:
    """Has a runner forget each attempt that was asked for, until it does not fail."""

    def __init__(self, runner: Forgets) -> None:
        self._runner = runner
        self._line: deque[Attempt] = deque()
        self._asked: set[Attempt] = set()  # what is in line, what is under way, and what is tried again later
        self._later: list[tuple[float, Attempt]] = []  # a heap: when, on the monotonic clock
        self._pauses: dict[Attempt, float] = {}  # the next one of each that has failed
        self._news = threading.Condition()
        self._stopped = threading.Event()

    def ask(self, attempt: Attempt) -> None:
        """Have an attempt forgotten whose end is recorded. To ask again before it is done changes nothing."""
        with self._news:
            if attempt not in self._asked:
                self._asked.add(attempt)
                self._line.append(attempt)
                self._news.notify()

    def all(self) -> None:
        """Try each that is not done once, in this thread."""
        with self._news:
            self._line.extend(attempt for _, attempt in self._later)
            self._later.clear()
        for _ in range(len(self._line)):
            self._one()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A few at once, in threads of their own."""
        threads = [threading.Thread(target=self._run, name="forget", daemon=True) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            with self._news:
                self._news.notify_all()
            end = time.monotonic() + _LAST
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._news:
                while not (self._stopped.is_set() or self._due()):
                    self._news.wait(self._later[0][0] - time.monotonic() if self._later else None)
            if self._stopped.is_set():
                return
            if not self._one():
                self._stopped.wait(_PAUSE)

    def _due(self) -> bool:
        """Whether one is in line, where those stand now whose pause is over."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._line.append(heappop(self._later)[1])
        return bool(self._line)

    def _one(self) -> bool:
        """Whether the first in line could be forgotten; if not, it is tried again after its pause."""
        with self._news:
            if not self._line:
                return True
            attempt = self._line.popleft()
        done = False
        try:
            self._runner.forget(*attempt)
            done = True
        except Unreachable as error:
            log.warning("job %s attempt %d cannot be forgotten just now: %s", *attempt, error)
        except Exception:  # whatever keeps one back must keep back no other
            log.exception("job %s attempt %d cannot be forgotten just now", *attempt)
        with self._news:
            if done:
                self._asked.discard(attempt)
                self._pauses.pop(attempt, None)
            else:
                pause = self._pauses.get(attempt, _PAUSE)
                self._pauses[attempt] = min(2 * pause, _LONGEST_PAUSE)
                heappush(self._later, (time.monotonic() + pause, attempt))
                self._news.notify()  # who waits does so for a later one, or for none
        return done
