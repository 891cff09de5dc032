"""What RQ calls in a worker, by dotted name. The worker command says first on whose behalf: `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from uws_server.queue.base import Taken, Work


class Worker(Protocol):
    """The part of `runners.worker.Worker` that is needed here."""

    def start_waiting(self) -> None:
        """Start what waits, as far as it fits."""

    def stop_due(self) -> None:
        """Stop what is to be stopped."""


@dataclass(frozen=True, slots=True)
class Context:
    """What tasks work with: made once for the worker's process, before its first task."""

    queue: Taken
    worker: Worker


_served: list[Context] = []


def serve(context: Context) -> None:
    """Let the tasks of this process work with ``context``."""
    _served[:] = [context]


def start_work(site: str) -> None:
    """Start what waits at the site. The wake-up counts as heard before the store is looked at."""
    context = _served[0]
    context.queue.taken(Work.START, site)
    context.worker.start_waiting()


def stop_work(site: str) -> None:
    """Stop what is to be stopped at the site."""
    context = _served[0]
    context.queue.taken(Work.STOP, site)
    context.worker.stop_due()
