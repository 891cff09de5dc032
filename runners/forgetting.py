"""Has a site forget what has ended, beside the watcher's passes: news of other attempts must not wait for it.

What is asked for here is in no record, and need not be: an attempt that the site still has is seen by the
next watcher, which finds its end recorded and asks again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from runners.base import Attempt, Unreachable

log = logging.getLogger(__name__)

_AT_ONCE = 4
_PAUSE = 1.0  # s after a failure, of the thread that saw it
_LAST = 5.0  # s in which what is under way may end


class Forgets(Protocol):
    """The part of a runner that is needed here; a few threads call it at once."""

    def forget(self, job_id: str, attempt: int) -> None:
        """See `runners.base.Runner.forget`."""


class Forgetting:
    """Has a runner forget each attempt that was asked for, until it does not fail."""

    def __init__(self, runner: Forgets) -> None:
        self._runner = runner
        self._line: deque[Attempt] = deque()
        self._asked: set[Attempt] = set()  # what is in line, and what is under way
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
        """Try each that is in line once, in this thread."""
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
            for thread in threads:
                thread.join(_LAST)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._line or self._stopped.is_set())
            if self._stopped.is_set():
                return
            if not self._one():
                self._stopped.wait(_PAUSE)

    def _one(self) -> bool:
        """Whether it could be forgotten; if not, it is at the end of the line again."""
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
            else:
                self._line.append(attempt)
        return done
