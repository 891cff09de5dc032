"""The reconciler: closes every gap that a crash can leave, and carries out what time decides.

One acts at a time, under a lease. It works from the store's time-ordered indexes: an idle round costs
one call per index, however many jobs are stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from uws_server.domain.errors import Refused
from uws_server.domain.events import ClaimLapsed, DeleteRequested, DestructionDue, Event
from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload, prefix_of
from uws_server.domain.phase import Phase
from uws_server.queue.base import Queue
from uws_server.service.changes import Changes
from uws_server.service.door import LONGEST_LINK
from uws_server.storage.base import ObjectStore, StorageUnavailable
from uws_server.store.base import Due, FencedOff, JobStore, Lease, Load, StoreUnavailable
from uws_server.store.records import Unreadable

log = logging.getLogger(__name__)

LINKS_LIVE = LONGEST_LINK * 1000
"""How long, in ms, a signed link of a deleted job may still be good; then its prefix is cleared again."""

_RETRY = 5_000
_AT_ONCE = 500
_LOOK_SECONDS = 5.0


def _unseen(_site: str, _load: Load) -> None:
    """Told of a site's load where nobody else is."""


class Reconciler:
    """Owns destruction times, lapsed claims, lost wake-ups and clearing away.

    ``seen`` is told what waits for each site, every 5 s: one call of the store for each site.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        changes: Changes,
        queue: Queue,
        objects: ObjectStore,
        sites: Sequence[str],
        holder: str,
        archive: bool = True,
        lease_seconds: float = 10,
        seen: Callable[[str, Load], None] = _unseen,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._changes = changes
        self._queue = queue
        self._objects = objects
        self._sites = sites
        self._holder = holder
        self._archive = archive
        self._lease_seconds = lease_seconds
        self._seen = seen
        self._monotonic = monotonic
        self._next_look = 0.0

    def run(self, stop: threading.Event, round_seconds: float = 1) -> None:
        """Reconcile until ``stop`` is set, a round every ``round_seconds``."""
        lease: Lease | None = None
        while not stop.is_set():
            try:
                lease = self._store.lease("reconciler", self._holder, self._lease_seconds)
                if lease is not None:
                    self.round(lease)
            except (StoreUnavailable, StorageUnavailable, FencedOff, Refused, Unreadable) as error:
                log.warning("reconciler: %s", error)
            stop.wait(round_seconds)
        if lease is not None:
            try:
                self._store.release(lease)
            except StoreUnavailable:
                log.info("the reconciler's lease lapses by itself")

    def round(self, lease: Lease) -> None:
        """Do everything that is due now. One job that makes trouble does not keep back the others."""
        now = self._store.now()
        for job in self._due(Due.CLAIM, now):
            self._apply(job, ClaimLapsed(job.attempt), lease)
        for site in self._sites:
            if self._store.due(Due.STOP, now, site, limit=1):
                self._queue.stop(site)
            if self._store.waiting(site):
                self._queue.wake(site)
        for job in self._due(Due.DESTRUCTION, now):
            self._destroy(job, lease)
        if self._monotonic() >= self._next_look:
            self._next_look = self._monotonic() + _LOOK_SECONDS
            for site in self._sites:
                self._seen(site, self._store.load(site))
        # Last, for this needs the object store, and jobs run without it.
        for job_id in self._store.due(Due.CLEARANCE, now):
            try:
                self._clear(job_id, now)
            except (StorageUnavailable, Unreadable):
                # It may be this one alone: the next round begins with another.
                self._store.schedule_clearance(job_id, now + _RETRY)
                raise

    def _due(self, what: Due, until: Instant) -> list[Job]:
        jobs = self._store.get_many(self._store.due(what, until, limit=_AT_ONCE))
        return [job for job in jobs if job is not None]

    def _apply(self, job: Job, event: Event, lease: Lease) -> None:
        try:
            self._changes.apply(job.id, event, lease)
        except (Refused, Unreadable) as error:
            log.warning("job %s: %s", job.id, error)

    def _destroy(self, job: Job, lease: Lease) -> None:
        if job.destruction is None:
            return
        if job.phase.final and not self._archive:
            self._apply(job, DeleteRequested(), lease)
        else:
            self._apply(job, DestructionDue(job.destruction), lease)

    def _clear(self, job_id: str, now: Instant) -> None:
        """Clear away what lies in the object store of a job that is over, or never came to be.

        The record says so already; should we die in between, the note is still there and this is done
        again. What has changed since it was read is left to the next round.
        """
        job = self._store.get(job_id)
        if job is None:
            self._objects.delete(prefix_of(job_id))
            self._store.cleared(job_id, None)
        elif job.workload is not Workload.NONE:
            self._store.schedule_clearance(job_id, now + _RETRY)  # stopped first
        elif job.deleted:
            self._objects.delete(job.prefix)
            last_link = (job.destruction or 0) + LINKS_LIVE
            if now < last_link:
                self._store.schedule_clearance(job_id, last_link)
            else:
                self._store.cleared(job_id, job, forget=True)
        else:
            if job.phase is Phase.ARCHIVED:
                self._objects.delete(job.prefix)
            self._store.cleared(job_id, job)
