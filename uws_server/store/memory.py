"""The double of the Redis store: the same behaviour in one process, for tests and for nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from urllib.parse import quote

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.domain.phase import Phase
from uws_server.store.base import (
    SCHEMA,
    Capacity,
    ClearanceDue,
    Due,
    FencedOff,
    JobEvent,
    KeyReused,
    Lease,
    Load,
    Planned,
    Quota,
    Selection,
    turned_away,
)


def _now() -> Instant:
    return time.time_ns() // 1_000_000


_MAY_BEGIN = frozenset({Workload.WAITING, Workload.CLAIMED, Workload.ACTIVE})


class MemoryStore:
    """Jobs in a dictionary; every index is worked out when it is asked for."""

    def __init__(self, clock: Callable[[], Instant] = _now) -> None:
        self._clock = clock
        self._guard = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._keys: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._clearance: dict[str, Instant] = {}
        self._claims: dict[str, Instant] = {}
        self._served: dict[tuple[str, str], int] = {}
        self._turn = 0
        self._capacities: dict[str, Capacity] = {}
        self._unwanted: dict[str, set[tuple[str, int]]] = {}
        self._leases: dict[str, tuple[Lease, Instant]] = {}
        self._fence = 0
        self._schema = 0
        self._events: list[JobEvent] = []
        self._sizes: dict[str, dict[str, int]] = {}
        self._places: dict[str, str] = {}
        self._logs: dict[str, dict[str, tuple[int, int]]] = {}

    def create(self, job: Job, key: str = "", fingerprint: str = "") -> Job:
        """See `JobStore.create`."""
        with self._guard:
            if job.id in self._jobs:
                return job
            known = self._keys.get((job.owner, job.service, key)) if key else None
            if known is not None:
                stored = self._jobs.get(known[0])
                if known[1] != fingerprint or stored is None:
                    raise KeyReused(key)
                return stored
            if any(parameter.upload for parameter in job.parameters):
                if self._clearance.get(job.id, 0) <= self._clock():
                    raise ClearanceDue(job.id)
                del self._clearance[job.id]
            if key:
                self._keys[job.owner, job.service, key] = (job.id, fingerprint)
            self._put(None, job)
            return job

    def get(self, job_id: str) -> Job | None:
        """See `JobStore.get`."""
        with self._guard:
            return self._jobs.get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """See `JobStore.get_many`."""
        with self._guard:
            return [self._jobs.get(job_id) for job_id in job_ids]

    def select(self, selection: Selection) -> list[Job]:
        """See `JobStore.select`."""
        with self._guard:
            found = [
                job
                for job in self._jobs.values()
                if not job.deleted
                and (job.service, job.owner) == (selection.service, selection.owner)
                and job.phase in selection.phases
                and (selection.after is None or job.created > selection.after)
                and (selection.before is None or (job.created, job.id) < selection.before)
            ]
        found.sort(key=lambda job: (job.created, job.id), reverse=True)
        return [
            replace(job, parameters=(), results=(), reason="", error=None, logs=None)
            for job in found[: selection.limit]
        ]

    def change(self, before: Job, after: Job, lease: Lease | None = None) -> bool:
        """See `JobStore.change`."""
        with self._guard:
            if lease is not None:
                held = self._held(lease.name)
                if held is None or held.fence != lease.fence:
                    raise FencedOff(f"{lease.name} has passed to another holder")
            stored = self._jobs.get(before.id)
            if stored is None or stored.version != before.version:
                return False
            self._put(before, after)
            return True

    def _put(self, before: Job | None, after: Job) -> None:
        self._jobs[after.id] = after
        if before and before.touched:
            ending = after.workload in (Workload.NONE, Workload.STOPPING)
            if ending or before.attempt != after.attempt:
                self._unwanted.setdefault(before.site, set()).add((before.id, before.attempt))
        if after.workload is not Workload.CLAIMED:
            self._claims.pop(after.id, None)
        if turned_away(before, after):
            self._served.pop((after.site, after.owner), None)
        if after.workload is Workload.NONE or (before and before.attempt != after.attempt):
            self._sizes.pop(after.id, None)
            self._places.pop(after.id, None)
            self._logs.pop(after.id, None)
        newly_deleted = after.deleted and not (before and before.deleted)
        newly_archived = after.phase is Phase.ARCHIVED and not (before and before.phase is Phase.ARCHIVED)
        if newly_deleted or newly_archived:
            self._clearance[after.id] = 0
        if before is None or before.phase is not after.phase or before.deleted != after.deleted:
            self._tell(after, "phase")
        elif (before.reason, before.attempt, before.destruction, before.finalising) != (
            after.reason,
            after.attempt,
            after.destruction,
            after.finalising,
        ):
            self._tell(after, "change")

    def _tell(self, job: Job, kind: str) -> None:
        number = f"{len(self._events) + 1}-0"
        phase = "" if job.deleted else job.phase.value
        self._events.append(JobEvent(number, job.id, job.owner, job.service, phase, kind))
        self._guard.notify_all()

    def schedule_clearance(self, job_id: str, at: Instant) -> None:
        """See `JobStore.schedule_clearance`."""
        with self._guard:
            self._clearance[job_id] = at

    def cleared(self, job_id: str, seen: Job | None, *, forget: bool = False) -> bool:
        """See `JobStore.cleared`."""
        with self._guard:
            stored = self._jobs.get(job_id)
            if (stored.version if stored else None) != (seen.version if seen else None):
                return False
            self._clearance.pop(job_id, None)
            if forget:
                self._jobs.pop(job_id, None)
                self._sizes.pop(job_id, None)
                self._places.pop(job_id, None)
                self._logs.pop(job_id, None)
            return True

    def claim(self, site: str, capacity: Capacity, seconds: float) -> str | None:
        """See `JobStore.claim`."""
        with self._guard:
            held = [job for job in self._jobs.values() if job.site == site and job.workload.holds_slot]
            if len(held) >= capacity.jobs:
                return None
            cpu = capacity.cpu_milli - sum(job.cpu_milli for job in held)
            memory = capacity.memory_bytes - sum(job.memory_bytes for job in held)
            heads: dict[str, Job] = {}
            for job in self._jobs.values():
                if job.site == site and job.workload is Workload.WAITING:
                    head = heads.setdefault(job.owner, job)
                    if (job.in_line_since, job.id) < (head.in_line_since, head.id):
                        heads[job.owner] = job
            for owner in sorted(
                heads, key=lambda owner: (self._served.get((site, owner), 1), quote(owner, safe=""))
            ):
                job = heads[owner]
                if capacity.never_fits(job) or (job.cpu_milli <= cpu and job.memory_bytes <= memory):
                    self._jobs[job.id] = replace(job, workload=Workload.CLAIMED, version=job.version + 1)
                    self._claims[job.id] = self._clock() + int(seconds * 1000)
                    self._turn += 1
                    self._served[site, owner] = self._turn + 1
                    return job.id
            return None

    def report(self, job_id: str, attempt: int, done: int, of: int) -> None:
        """See `JobStore.report`."""
        with self._guard:
            job = self._jobs.get(job_id)
            if job is not None and job.attempt == attempt and job.progress != (done, of):
                self._jobs[job_id] = replace(job, progress=(done, of))
                self._tell(job, "progress")

    def begin(self, job_id: str, attempt: int, place: str) -> bool:
        """See `JobStore.begin`."""
        with self._guard:
            job = self._jobs.get(job_id)
            if job is None or job.attempt != attempt or job.workload not in _MAY_BEGIN:
                return False
            return self._places.setdefault(job_id, place) == place

    def count(self, job_id: str, attempt: int, planned: Sequence[Planned], quota: Quota) -> int | None:
        """See `JobStore.count`."""
        with self._guard:
            job = self._jobs.get(job_id)
            if job is None or job.attempt != attempt or job.workload is Workload.NONE:
                return 0
            sizes, logs = dict(self._sizes.get(job_id, {})), dict(self._logs.get(job_id, {}))
            for number, one in enumerate(planned):
                if one.offset is None:
                    sizes[one.name] = max(one.size, sizes.get(one.name, 0))
                    fits = len(sizes) <= quota.files and sum(sizes.values()) <= quota.bytes
                else:
                    start, end = logs.get(one.name, (0, 0))
                    following = (one.offset, one.offset + one.size)
                    fits = one.offset == end or following == (start, end)
                    fits = fits and following[1] <= quota.log_bytes
                    logs[one.name] = following
                if not fits:
                    return number
            self._sizes[job_id], self._logs[job_id] = sizes, logs
            return None

    def due(self, what: Due, now: Instant, site: str = "", limit: int = 100) -> list[str]:
        """See `JobStore.due`."""
        with self._guard:
            times = self._times(what, site)
        return sorted((job_id for job_id, at in times.items() if at <= now), key=lambda i: (times[i], i))[
            :limit
        ]

    def now(self) -> Instant:
        """See `JobStore.now`."""
        return self._clock()

    def _times(self, what: Due, site: str) -> dict[str, Instant]:
        jobs = self._jobs.values()
        if what is Due.CLAIM:
            return dict(self._claims)
        if what is Due.CLEARANCE:
            return dict(self._clearance)
        if what is Due.STOP:
            stopping = [job for job in jobs if job.workload is Workload.STOPPING and job.site == site]
            return {job.id: job.ended or job.created for job in stopping}
        if what is Due.DEADLINE:
            return {
                job.id: job.attempt_started + job.duration * 1000
                for job in jobs
                if job.phase is Phase.EXECUTING
                and job.attempt_started is not None
                and job.duration
                and not job.deleted
            }
        return {
            job.id: job.destruction
            for job in jobs
            if job.destruction is not None
            and not (job.deleted or job.phase is Phase.ARCHIVED or job.finalising)
        }

    def waiting(self, site: str) -> int:
        """See `JobStore.waiting`."""
        with self._guard:
            waiting = [job for job in self._jobs.values() if job.workload is Workload.WAITING]
        return len({job.owner for job in waiting if job.site == site})

    def load(self, site: str) -> Load:
        """See `JobStore.load`."""
        with self._guard:
            here = [job for job in self._jobs.values() if job.site == site]
        waiting = [job for job in here if job.workload is Workload.WAITING]
        oldest = min((job.in_line_since for job in waiting), default=None)
        return Load(
            jobs=len(waiting),
            owners=len({job.owner for job in waiting}),
            oldest_seconds=0.0 if oldest is None else max(0, self._clock() - oldest) / 1000,
            attempts=sum(job.workload.holds_slot for job in here),
        )

    def report_capacity(self, site: str, capacity: Capacity) -> None:
        """See `JobStore.report_capacity`."""
        with self._guard:
            self._capacities[site] = capacity

    def capacity(self, site: str) -> Capacity | None:
        """See `JobStore.capacity`."""
        with self._guard:
            return self._capacities.get(site)

    def given(self, site: str) -> dict[tuple[str, int], bool]:
        """See `JobStore.given`."""
        with self._guard:
            active = [j for j in self._jobs.values() if j.site == site and j.workload is Workload.ACTIVE]
            unwanted = dict.fromkeys(self._unwanted.get(site, ()), False)
            return unwanted | {(job.id, job.attempt): True for job in active}

    def forgotten(self, site: str, attempts: Collection[tuple[str, int]]) -> None:
        """See `JobStore.forgotten`."""
        with self._guard:
            self._unwanted.get(site, set()).difference_update(attempts)

    def _held(self, name: str) -> Lease | None:
        lease, until = self._leases.get(name, (None, 0))
        return lease if until > self._clock() else None

    def lease(self, name: str, holder: str, seconds: float) -> Lease | None:
        """See `JobStore.lease`."""
        with self._guard:
            held = self._held(name)
            if held is not None and held.holder != holder:
                return None
            if held is None:
                self._fence += 1
                held = Lease(name, holder, self._fence)
            self._leases[name] = (held, self._clock() + int(seconds * 1000))
            return held

    def release(self, lease: Lease) -> None:
        """See `JobStore.release`."""
        with self._guard:
            held = self._held(lease.name)
            if held is not None and held.fence == lease.fence:
                del self._leases[lease.name]

    def events(self, after: str, timeout: float) -> list[JobEvent]:
        """See `JobStore.events`."""
        seen = int(after.split("-", maxsplit=1)[0]) if after else 0
        with self._guard:
            self._guard.wait_for(lambda: len(self._events) > seen, timeout)
            return self._events[seen:]

    def last_event(self) -> str:
        """See `JobStore.last_event`."""
        with self._guard:
            return self._events[-1].id if self._events else ""

    def schema(self, ours: int = SCHEMA) -> int:
        """See `JobStore.schema`."""
        with self._guard:
            self._schema = self._schema or (1 if self._events else ours)
            return self._schema

    def check(self) -> list[str]:
        """See `JobStore.check`."""
        return ["jobs are kept in memory only: they are gone when the process ends"]
