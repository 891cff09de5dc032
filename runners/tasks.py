"""What RQ calls in a worker, by dotted name. The worker command says first on whose behalf: `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from uws_server.queue.base import Taken, Work


class Attempts(Protocol):
    """The part of `uws_server.service.attempts.Attempts` that is needed here."""

    def start_waiting(self, site: str) -> None:
        """Claim and start jobs until nothing is left that fits."""

    def stop_due(self, site: str) -> None:
        """Stop the attempts that are to be stopped."""


@dataclass(frozen=True, slots=True)
class Context:
    """What tasks work with: made once for the worker's process, before its first task."""

    queue: Taken
    attempts: Attempts


_served: list[Context] = []


def serve(context: Context) -> None:
    """Let the tasks of this process work with ``context``."""
    _served[:] = [context]


def start_work(site: str) -> None:
    """Start what waits at the site. The wake-up counts as heard before the store is looked at."""
    context = _served[0]
    context.queue.taken(Work.START, site)
    context.attempts.start_waiting(site)


def stop_work(site: str) -> None:
    """Stop what is to be stopped at the site."""
    context = _served[0]
    context.queue.taken(Work.STOP, site)
    context.attempts.stop_due(site)
