"""How long the agent goes on: the deadline that a signal sets, and the pauses between new tries."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

LONGEST_PAUSE = 5.0  # s, without the server's own word


class DeadlinePassed(Exception):
    """The time that was left after SIGTERM is over."""


@dataclass(slots=True)
class _Instant:
    """An instant of the monotonic clock, and whether anybody has set it."""

    at: float = float("inf")
    known: threading.Event = field(default_factory=threading.Event)


class Deadline:
    """An instant, at first never, that a signal may set while others wait."""

    def __init__(self, instant: _Instant | None = None, less: float = 0.0) -> None:
        self._instant = instant or _Instant()
        self._less = less

    def set(self, seconds: float) -> None:
        """Let it be in so many seconds from now."""
        self._instant.at = time.monotonic() + seconds
        self._instant.known.set()

    @property
    def near(self) -> bool:
        """Whether it has been set."""
        return self._instant.known.is_set()

    def less(self, seconds: float) -> Deadline:
        """A deadline that always comes so much before this one."""
        return Deadline(self._instant, self._less + seconds)

    def left(self) -> float:
        """Seconds until then, at most an hour.

        :raises DeadlinePassed: there are none.
        """
        left = self._instant.at - self._less - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return min(left, 3600.0)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the deadline.

        :raises DeadlinePassed: it came first.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.near:
                time.sleep(min(left, self.left()))
            else:
                self._instant.known.wait(left)


def backoff(failures: int, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures in a row; spread, so that many agents do not come at once."""
    return min(longest, 0.1 * 2.0 ** min(failures, 16)) * (0.5 + os.urandom(1)[0] / 510)
