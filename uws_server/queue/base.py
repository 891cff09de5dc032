"""What a queue offers: wake-ups, never jobs. Truth is in the job store; a queue may lose everything."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Work(Enum):
    """What a worker is woken for. Each kind has a queue, and workers, of its own."""

    START = "start"  # the site's waiting lines have work
    STOP = "stop"  # attempts of the site are to be stopped


class Queue(Protocol):
    """The side of those who have work for others.

    Neither call raises when the queue does not answer: what is to be done is stored already, and the
    reconciler wakes again.
    """

    def wake(self, site: str) -> None:
        """The site's waiting lines have work."""

    def stop(self, site: str) -> None:
        """Attempts of the site are to be stopped."""


class Taken(Protocol):
    """The side of a worker's task."""

    def taken(self, work: Work, site: str) -> None:
        """Say before the first look at the store that the wake-up was heard: a later one counts again."""
