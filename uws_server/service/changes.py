"""How a job changes: read, `advance`, compare-and-set, wake whoever has work now."""

from __future__ import annotations

from collections.abc import Callable

from uws_server.domain.errors import NotFound, Unavailable
from uws_server.domain.events import Event, advance
from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.queue.base import Queue
from uws_server.store.base import JobStore, Lease

Clock = Callable[[], Instant]

Told = Callable[[Job | None, Job, Lease | None], None]
"""Hears of each change that was stored: before, after, and the lease under which it was made."""


def _nobody(_before: Job | None, _after: Job, _lease: Lease | None) -> None:
    """Hears of changes where nobody else does."""


class Changes:
    """Applies events to jobs.

    Cost of one event: two script calls, one that reads and one that changes; the wake-up
    of an idle site is one more SET and, when it was not awake, an RQ enqueue.
    """

    def __init__(self, store: JobStore, queue: Queue, clock: Clock, told: Told = _nobody) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._told = told

    def apply(self, job_id: str, event: Event | Callable[[Job], Event], lease: Lease | None = None) -> Job:
        """The job after the event, whoever else changes it meanwhile.

        The loser of a race reads again and lets `advance` decide anew, so that an event is applied
        to what is stored and to nothing older. An event that depends on the job is given as a function.

        :raises NotFound: there is no such job.
        :raises Forbidden: `advance` refuses a client's wish.
        :raises FencedOff: ``lease`` has passed on.
        """
        tried: Job | None = None
        for _ in range(50):
            before = self._store.get(job_id)
            if before is None:
                raise NotFound(f"there is no job {job_id!r}")
            if before == tried:
                return before  # it was stored, only the reply was lost
            happened = event(before) if callable(event) else event
            after = tried = advance(before, happened, self._clock())
            if after is before:
                return before
            if self._store.change(before, after, lease):
                self.follow(before, after, lease)
                return after
        raise Unavailable(f"job {job_id} changes too fast just now; try again")

    def follow(self, before: Job | None, after: Job, lease: Lease | None = None) -> None:
        """Tell of a change that is stored already, and wake whoever has work because of it."""
        self._told(before, after, lease)
        was = before.workload if before else Workload.NONE
        if after.workload is was:
            return
        if after.workload is Workload.WAITING:
            # What comes back to the line (Busy, a lapsed claim) waits for the reconciler's next
            # round: waking a worker at once would have it turn in circles.
            if was is not Workload.CLAIMED:
                self._queue.wake(after.site)
        elif after.workload is Workload.STOPPING:
            self._queue.stop(after.site)
        elif was.holds_slot and self._store.waiting(after.site):
            self._queue.wake(after.site)  # room was made for what waits
