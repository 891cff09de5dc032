"""The reconciler: closes every gap that a crash can leave, and carries out what time decides.

One acts at a time, under a lease. It works from the store's time-ordered indexes: an idle round costs
one call per index, however many jobs are stored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from uws_server.domain.errors import Forbidden, NotFound
from uws_server.domain.events import (
    AbortRequested,
    Archived,
    ClaimLapsed,
    DeleteRequested,
    TimedOut,
)
from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.service.changes import Changes, Wakes
from uws_server.storage.base import ObjectStore, StorageUnavailable
from uws_server.store.base import Due, FencedOff, JobStore, Lease, StoreUnavailable

log = logging.getLogger(__name__)

LINKS_LIVE = 3600_000
"""How long, in ms, a signed link of a deleted job may still be good; then its prefix is cleared again."""

_DEADLINE_MARGIN = 15_000  # the supervisor or the site is to stop an attempt first; this is the backstop
_RETRY = 5_000


class Reconciler:
    """Owns destruction times, lapsed claims, lost wake-ups, overrun deadlines and clearing away."""

    def __init__(
        self,
        *,
        store: JobStore,
        changes: Changes,
        queue: Wakes,
        objects: ObjectStore,
        sites: Sequence[str],
        holder: str,
        clock: Callable[[], Instant],
        archive: bool = True,
        lease_seconds: float = 10,
    ) -> None:
        self._store = store
        self._changes = changes
        self._queue = queue
        self._objects = objects
        self._sites = sites
        self._holder = holder
        self._clock = clock
        self._archive = archive
        self._lease_seconds = lease_seconds

    def run(self, stop: threading.Event, round_seconds: float = 1) -> None:
        """Reconcile until ``stop`` is set, a round every ``round_seconds``."""
        lease: Lease | None = None
        while not stop.is_set():
            try:
                lease = self._store.lease("reconciler", self._holder, self._lease_seconds)
                if lease is not None:
                    self.round(lease)
            except (StoreUnavailable, StorageUnavailable, FencedOff, NotFound) as error:
                log.warning("reconciler: %s", error)
            stop.wait(round_seconds)
        if lease is not None:
            try:
                self._store.release(lease)
            except StoreUnavailable:
                log.info("the reconciler's lease lapses by itself")

    def round(self, lease: Lease) -> None:
        """Do everything that is due now."""
        now = self._clock()
        for job in self._due(Due.CLAIM, now):
            self._changes.apply(job.id, ClaimLapsed(job.attempt), lease)
        for job in self._due(Due.DEADLINE, now - _DEADLINE_MARGIN):
            self._changes.apply(job.id, TimedOut(job.attempt, now), lease)
        for site in self._sites:
            if self._store.due(Due.STOP, now, site, limit=1):
                self._queue.stop(site)
            if self._store.waiting(site):
                self._queue.wake(site)
        # Last, for these need the object store, and jobs run without it.
        for job in self._due(Due.DESTRUCTION, now):
            self._destroy(job, lease)
        for job_id in self._store.due(Due.CLEARANCE, now):
            self._clear(job_id, now)

    def _due(self, what: Due, until: Instant) -> list[Job]:
        jobs = self._store.get_many(self._store.due(what, until))
        return [job for job in jobs if job is not None]

    def _destroy(self, job: Job, lease: Lease) -> None:
        if not job.phase.final:
            try:
                job = self._changes.apply(job.id, AbortRequested("its destruction time has come"), lease)
            except Forbidden:
                return  # it has ended since we looked; it stays due
        if job.workload is not Workload.NONE:
            return  # stopped first; it stays due
        if not self._archive:
            self._changes.apply(job.id, DeleteRequested(), lease)
            return
        # Content first: should we die in between, the job is still due and this is done again.
        self._objects.delete(job.prefix)
        self._changes.apply(job.id, Archived(), lease)

    def _clear(self, job_id: str, now: Instant) -> None:
        job = self._store.get(job_id)
        if job is not None and not job.deleted:
            self._store.unreserve(job_id)  # `create` does this; here its reply came before the note
            return
        if job is not None and job.workload is not Workload.NONE:
            self._store.reserve(job_id, now + _RETRY)  # stopped first
            return
        self._objects.delete(f"jobs/{job_id}")
        last_link = (job.destruction or 0) + LINKS_LIVE if job is not None else 0
        if now < last_link:
            self._store.reserve(job_id, last_link)
        else:
            self._store.remove(job_id)
