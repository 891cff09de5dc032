"""Observations → phase changes. One per site acts at a time, under a lease that fences its changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from runners.base import Cause, Observation, Outcome, Runner, State
from uws_server.domain.errors import NotFound
from uws_server.domain.events import (
    AttemptLost,
    Event,
    Failed,
    Gone,
    Launched,
    Reasoned,
    Started,
    Succeeded,
    TimedOut,
)
from uws_server.domain.instants import Instant
from uws_server.domain.job import ErrorSummary, Job, Result, Workload
from uws_server.service.changes import Changes
from uws_server.service.door import load_manifest
from uws_server.storage.base import ObjectStore, StorageUnavailable
from uws_server.store.base import Due, FencedOff, JobStore, Lease, StoreUnavailable

log = logging.getLogger(__name__)

Stored = tuple[tuple[Result, ...], tuple[int, int] | None]

_OVERRUN = 15_000  # ms after which the watcher does what the supervisor should have done

_RETRIED = frozenset({Cause.LOST, Cause.STOPPED})
_RETRIED_IF_TRANSIENT = frozenset({Cause.STAGE_IN, Cause.STAGE_OUT})


class Watcher:
    """Watches one site.

    Level-triggered: whatever `Runner.observe` lists is brought into the job's record, in any order
    and as often as it likes. An observation that was brought in already costs nothing until the
    next full pass, which comes at least every ``relist_seconds``.
    """

    def __init__(
        self,
        *,
        site: str,
        holder: str,
        store: JobStore,
        changes: Changes,
        objects: ObjectStore,
        runner: Runner,
        attempts: int,
        clock: Callable[[], Instant],
        lease_seconds: float = 10,
        relist_seconds: float = 60,
    ) -> None:
        self._site = site
        self._holder = holder
        self._store = store
        self._changes = changes
        self._objects = objects
        self._runner = runner
        self._attempts = attempts
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._relist_seconds = relist_seconds
        self._seen: dict[tuple[str, int], Observation] = {}
        self._forgot_seen = 0.0

    def run(self, stop: threading.Event) -> None:
        """Watch until ``stop`` is set."""
        lease: Lease | None = None
        while not stop.is_set():
            try:
                lease = self._store.lease(f"watcher:{self._site}", self._holder, self._lease_seconds)
                if lease is None:
                    stop.wait(self._lease_seconds / 5)
                    continue
                self.look(lease)
                self._runner.wait(self._lease_seconds / 3)
            except (StoreUnavailable, StorageUnavailable, FencedOff) as error:
                log.warning("watcher of %s: %s", self._site, error)
                stop.wait(0.5)
        if lease is not None:
            try:
                self._store.release(lease)
            except StoreUnavailable:
                log.info("the lease of %s lapses by itself", self._site)

    def look(self, lease: Lease) -> None:
        """One pass over everything that the site knows."""
        if time.monotonic() - self._forgot_seen > self._relist_seconds:
            self._seen.clear()
            self._forgot_seen = time.monotonic()
        present = set()
        running = set()
        for observation in self._runner.observe():
            attempt = observation.job_id, observation.attempt
            present.add(attempt)
            if observation.state is State.RUNNING:
                running.add(attempt)
            if self._seen.get(attempt) == observation:
                continue
            try:
                noted = self._note(observation, lease)
            except (StoreUnavailable, StorageUnavailable, FencedOff):
                raise
            except Exception:
                # One odd attempt must not keep back the news of all others.
                log.exception("job %s attempt %d cannot be brought into its record", *attempt)
                continue
            if noted:
                self._seen[attempt] = observation
        for attempt in self._seen.keys() - present:
            del self._seen[attempt]
        self._end_overrun(running, lease)

    def _end_overrun(self, running: set[tuple[str, int]], lease: Lease) -> None:
        """Abort what runs on beyond its execution duration, should the site not have ended it itself.

        Only what was seen running a moment ago: results of code that ended in time may come late, and so
        may the news of it when the server was down.
        """
        now = self._store.now()
        due = self._store.due(Due.DEADLINE, now - _OVERRUN, limit=1000) if running else []
        for job_id in due:
            job = self._store.get(job_id)
            if job is not None and (job_id, job.attempt) in running:
                self._changes.apply(job_id, TimedOut(job.attempt, now), lease)

    def _note(self, seen: Observation, lease: Lease) -> bool:
        """Bring an observation into the record; False when it should be looked at again soon."""
        try:
            job: Job | None = None
            for event in self._events(seen):
                job = self._changes.apply(seen.job_id, event, lease)
            job = job or self._store.get(seen.job_id)
        except NotFound:
            # Not ours, or the store lost it: no reason to remove anything.
            log.warning("site %s runs attempt %d of unknown job %s", self._site, seen.attempt, seen.job_id)
            return True
        over = seen.state in (State.ENDED, State.LOST)
        unwanted = job is not None and _unwanted(job, seen.attempt)
        if over and unwanted:
            self._runner.forget(seen.job_id, seen.attempt)
        elif unwanted:
            # Aborted while it waited for its lapsed claim to be taken again, and started all the same.
            self._runner.stop(seen.job_id, seen.attempt)
        return not (over or unwanted or seen.state is State.UNSTARTED)

    def _events(self, seen: Observation) -> Iterator[Event]:
        number = seen.attempt
        if seen.state is State.UNSTARTED:
            return  # whoever holds the claim starts it, or takes the claim when it has lapsed
        if seen.state is State.STAGING:
            yield Launched(number)
            if seen.reason:
                yield Reasoned(number, seen.reason)
            return
        if seen.started is not None:
            yield Started(number, seen.started)
        if seen.state in (State.RUNNING, State.FINISHING):
            return
        outcome = seen.outcome or Outcome(Cause.LOST, "the attempt ended without a word", transient=True)
        results, logs = self._stored(seen)
        at = seen.ended or self._clock()
        error = ErrorSummary(outcome.message or outcome.cause.value, outcome.transient, outcome.detail)
        if outcome.cause is Cause.SUCCEEDED:
            if logs is not None:
                yield Succeeded(number, at, results, logs)
            else:
                lost = ErrorSummary("the results could not be stored", transient=True)
                yield AttemptLost(number, at, lost, self._attempts)
        elif outcome.cause is Cause.TIMED_OUT:
            yield TimedOut(number, at)
        elif not _retried(outcome):
            yield Failed(number, at, error, results, logs)
        # A job that is final by now, or deleted, is left as it is by all of the above and below.
        if _retried(outcome):
            yield Gone(number, results, logs)
            yield AttemptLost(number, at, error, self._attempts, results, logs)
        yield Gone(number, results, logs)

    def _stored(self, seen: Observation) -> Stored:
        job = self._store.get(seen.job_id)
        if job is None:
            raise NotFound(f"there is no job {seen.job_id}")
        if job.attempt != seen.attempt:
            return (), None
        return load_manifest(self._objects, job) or ((), None)


def _retried(outcome: Outcome) -> bool:
    """Whether the fault is the infrastructure's: outputs that are missing or too many come again."""
    if outcome.cause in _RETRIED_IF_TRANSIENT:
        return outcome.transient
    return outcome.cause in _RETRIED


def _unwanted(job: Job, attempt: int) -> bool:
    """Whether the record says that this attempt is over, or is never to be."""
    return job.attempt > attempt or (job.workload is Workload.NONE and (job.phase.final or job.deleted))
