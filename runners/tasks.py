"""What RQ calls in a worker, by dotted name. The worker command says first on whose behalf: `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from uws_server.queue.base import Queue, Taken, Work


class Worker(Protocol):
    """The part of `runners.worker.Worker` that is needed here."""

    def start_waiting(self) -> bool:
        """Start what waits, as far as it fits; whether to go on at once: it was too much for one task."""

    def stop_due(self) -> None:
        """Stop what is to be stopped."""


class Woken(Taken, Queue, Protocol):
    """Both sides of a queue."""


@dataclass(frozen=True, slots=True)
class Context:
    """What tasks work with: made once for the worker's process, before its first task."""

    queue: Woken
    worker: Worker


_served: list[Context] = []


def serve(context: Context) -> None:
    """Let the tasks of this process work with ``context``."""
    _served[:] = [context]


def start_work(site: str) -> None:
    """Start what waits at the site. The wake-up counts as heard before the store is looked at."""
    context = _served[0]
    context.queue.taken(Work.START, site)
    if context.worker.start_waiting():
        context.queue.wake(site)


def stop_work(site: str) -> None:
    """Stop what is to be stopped at the site."""
    context = _served[0]
    context.queue.taken(Work.STOP, site)
    context.worker.stop_due()
