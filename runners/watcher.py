"""Observations → phase changes. One per site acts at a time, under a lease that fences its changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice

from runners.base import Attempt, Cause, Observation, Outcome, Runner, State, Unreachable
from runners.forgetting import Forgetting
from runners.stuck import Stuck
from uws_server.domain.errors import NotFound
from uws_server.domain.events import (
    AttemptLost,
    Event,
    Failed,
    Gone,
    Launched,
    Pulled,
    Reasoned,
    Started,
    Succeeded,
    TimedOut,
)
from uws_server.domain.instants import Instant
from uws_server.domain.job import ErrorSummary, Job, Workload
from uws_server.service.changes import Changes
from uws_server.service.manifest import Listing, load_manifest
from uws_server.storage.base import ObjectStore, StorageUnavailable
from uws_server.store.base import Due, FencedOff, JobStore, Lease, StoreUnavailable

log = logging.getLogger(__name__)

# s for each attempt at the site, between two passes: with thousands of them each pass over all takes
# milliseconds, and news come every few milliseconds too.
_PAUSE = 20e-6
_LONGEST_PAUSE = 0.5

_AGAIN = 50  # attempts without news that a pass at least brings in once more, when it is time

_SETTLE = 60.0  # s after a site's silence in which it may still tell what was so before

_RETRIED = frozenset({Cause.LOST, Cause.STOPPED})
_RETRIED_IF_TRANSIENT = frozenset({Cause.STAGE_IN, Cause.STAGE_OUT})


class Watcher:
    """Watches one site.

    Level-triggered: whatever `Runner.observe` lists is brought into the job's record, in any order
    and as often as it likes, what changed last being last. An observation that was brought in already costs
    nothing for ``relist_seconds``; then it is brought in again, a few in each pass, so that thousands of them
    keep back no news. What the site keeps of an attempt whose end is recorded it is told to forget, beside
    the passes (`Forgetting`).

    At least every ``relist_seconds`` a full pass compares what the site lists with what it was given
    (`JobStore.given`). An attempt that should be there and was missing in every full pass for ``lost_after``
    seconds is given up; a site that does not answer, and a watcher that was away, are no evidence.
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
        lost_after: float,
        pending_limit: float = 0,
        lease_seconds: float = 10,
        relist_seconds: float = 60,
        monotonic: Callable[[], float] = time.monotonic,
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
        self._lost_after = lost_after
        self._monotonic = monotonic
        self._fence = 0  # of the lease that all of the following was seen under
        self._next_full_pass = 0.0
        self._settled_at = 0.0
        self._seen: dict[Attempt, tuple[Observation, float]] = {}  # and when it was brought in, oldest first
        self._last_pass = 0.0
        self._forgetting = Forgetting(runner)
        self._unwanted: frozenset[Attempt] = frozenset()  # what the site has no reason to keep
        self._missing: dict[Attempt, float] = {}  # since when
        self._stuck = Stuck(pending_limit)

    def run(self, stop: threading.Event) -> None:
        """Watch until ``stop`` is set."""
        with self._forgetting.going_on():
            self._run(stop)

    def forget(self) -> None:
        """Have the site forget all whose end is recorded by now, as `run` does beside its passes."""
        self._forgetting.all()

    def _run(self, stop: threading.Event) -> None:
        lease: Lease | None = None
        while not stop.is_set():
            try:
                lease = self._store.lease(f"watcher:{self._site}", self._holder, self._lease_seconds)
                if lease is None:
                    stop.wait(self._lease_seconds / 5)
                    continue
                self.look(lease)
                stop.wait(min(_LONGEST_PAUSE, len(self._seen) * _PAUSE))
                self._runner.wait(self._lease_seconds / 3)
            except (StoreUnavailable, StorageUnavailable, FencedOff, Unreachable) as error:
                log.warning("watcher of %s: %s", self._site, error)
                stop.wait(0.5)
        if lease is not None:
            try:
                self._store.release(lease)
            except StoreUnavailable:
                log.info("the lease of %s lapses by itself", self._site)

    def look(self, lease: Lease) -> None:
        """One pass over everything that the site knows.

        :raises Unreachable: the site does not answer.
        """
        given = self._begin_full_pass(lease)
        now = self._monotonic()
        again = self._due_again(now)
        present = set()
        running = set()
        for observation in self._observe():
            attempt = observation.job_id, observation.attempt
            if observation.state is not State.UNSTARTED:
                present.add(attempt)
            if observation.state is State.RUNNING and not observation.silent:
                running.add(attempt)
            known = self._seen.get(attempt)
            # What is the very same object costs a tenth of a comparison, and nearly all are.
            same = known is not None and (known[0] is observation or known[0] == observation)
            if same and attempt not in again:
                continue
            self._seen.pop(attempt, None)
            self._stuck.leave(attempt)
            try:
                noted = self._note(observation, lease)
            except (StoreUnavailable, StorageUnavailable, FencedOff):
                raise
            except Exception:
                # One odd attempt must not keep back the news of all others.
                log.exception("job %s attempt %d cannot be brought into its record", *attempt)
                continue
            if noted:
                self._seen[attempt] = observation, now
        for attempt in self._seen.keys() - present:
            del self._seen[attempt]
            self._stuck.leave(attempt)
        self._end_overrun(running, lease)
        self._end_stuck(lease)
        if given is not None:
            self._compare(given, present, lease)
            self._next_full_pass = self._monotonic() + self._relist_seconds

    def _begin_full_pass(self, lease: Lease) -> dict[Attempt, bool] | None:
        """What the site was given, where this is to be a full pass.

        Read before the site is asked, so that whatever is in it must be in the site's answer.
        """
        if lease.fence != self._fence:
            # Another watcher was at work, or nobody: what we saw before says nothing about now.
            self._fence, self._next_full_pass = lease.fence, 0.0
            self._missing.clear()
            self._seen.clear()
            self._stuck.clear()
        if self._monotonic() < self._next_full_pass:
            return None
        given = self._store.given(self._site)
        self._unwanted = frozenset(attempt for attempt, wanted in given.items() if not wanted)
        return given

    def _due_again(self, now: float) -> set[Attempt]:
        """What was brought in long ago: in each pass as many as keep up with the time that has gone by."""
        share = len(self._seen) * (now - self._last_pass) / max(self._relist_seconds, 1.0)
        self._last_pass = now
        oldest = islice(self._seen.items(), _AGAIN + int(share))
        return {attempt for attempt, (_, at) in oldest if now - at >= self._relist_seconds}

    def _observe(self) -> list[Observation]:
        try:
            return list(self._runner.observe())
        except Exception:
            self._missing.clear()
            self._settled_at = self._monotonic() + _SETTLE
            self._stuck.silence(self._store.now())
            raise

    def _compare(self, given: dict[Attempt, bool], present: set[Attempt], lease: Lease) -> None:
        """Give up what has been missing for long; leave the rest of what is missing for the next pass."""
        missing = [attempt for attempt in given if attempt not in present]
        self._store.forgotten(self._site, [attempt for attempt in missing if not given[attempt]])
        now = self._monotonic()
        self._missing = {a: self._missing.get(a, now) for a in missing if given[a]}
        for attempt, since in self._missing.items():
            if now - since >= self._lost_after:
                self._give_up(*attempt, lease)

    def _give_up(self, job_id: str, number: int, lease: Lease) -> None:
        """Record that an attempt is lost. Should it turn up again, the record says that it is unwanted."""
        job = self._store.get(job_id)
        if job is None:
            self._store.forgotten(self._site, [(job_id, number)])
            return
        results, logs = self._stored(job, number)
        said = f"The job was broken off: site {self._site} has not known of it for {self._lost_after:g} s."
        error = ErrorSummary(said, transient=True)
        lost = AttemptLost(number, self._clock(), error, self._attempts, results, logs, proved=False)
        log.warning("job %s attempt %d: %s", job_id, number, said)
        self._changes.apply(job_id, lost, lease)

    def _end_overrun(self, running: set[tuple[str, int]], lease: Lease) -> None:
        """Abort what runs on beyond its execution duration, should the site not have ended it itself.

        Only what was seen running a moment ago: results of code that ended in time may come late, and so
        may the news of it when the server was down, or the site's own nodes could not tell it.
        """
        if self._monotonic() < self._settled_at:
            return
        now = self._store.now()
        patience = int(self._runner.overrun_seconds * 1000)
        due = self._store.due(Due.DEADLINE, now - patience, limit=1000) if running else []
        for job_id in {job_id for job_id, _ in running}.intersection(due):
            job = self._store.get(job_id)
            if job is not None and (job_id, job.attempt) in running:
                self._changes.apply(job_id, TimedOut(job.attempt, now), lease)

    def _end_stuck(self, lease: Lease) -> None:
        """Fail what has waited at the site for too long for what waiting does not bring."""
        for job_id, event in self._stuck.due(self._store.now()) if self._stuck else ():
            log.warning("job %s attempt %d: %s", job_id, event.attempt, event.error.message)
            self._stuck.leave((job_id, event.attempt))
            with suppress(NotFound):
                self._changes.apply(job_id, event, lease)

    def _note(self, seen: Observation, lease: Lease) -> bool:
        """Bring an observation into the record; False when it should be looked at again soon."""
        job: Job | None = None
        try:
            for event in chain(_pulled(seen), self._events(seen)):
                job = self._changes.apply(seen.job_id, event, lease)
            job = job or self._store.get(seen.job_id)
        except NotFound:
            job = None
        self._stuck.note(seen, job)
        attempt = seen.job_id, seen.attempt
        if job is None and attempt not in self._unwanted:
            # Not ours, or the store lost it: no reason to remove anything.
            log.warning(
                "job %s attempt %d is at site %s and has no record", seen.job_id, seen.attempt, self._site
            )
            return True
        over = seen.state in (State.ENDED, State.LOST)
        # A job whose record is gone was deleted while nobody watched.
        unwanted = job is None or _unwanted(job, seen.attempt)
        if over and unwanted:
            self._forgetting.ask(attempt)
            return True
        if unwanted:
            # Aborted while it waited for its lapsed claim to be taken again, and started all the same.
            # Asked again when there is news of it, and with everything else after a while.
            self._runner.stop(seen.job_id, seen.attempt)
        return not (over or seen.state is State.UNSTARTED)

    def _events(self, seen: Observation) -> Iterator[Event]:
        number = seen.attempt
        if seen.state is State.UNSTARTED:
            return  # whoever holds the claim starts it, or takes the claim when it has lapsed
        if seen.state is State.STAGING:
            yield Launched(number)
            if seen.reason:
                stuck = self._store.now() if seen.stuck else None
                yield Reasoned(number, seen.reason, stuck, open=seen.stuck is None)
            return
        if seen.started is not None:
            yield Started(number, seen.started)
        if seen.state in (State.RUNNING, State.FINISHING):
            return
        outcome = seen.outcome or Outcome(Cause.LOST, "the attempt ended without a word", transient=True)
        job = self._store.get(seen.job_id)
        if job is None:
            raise NotFound(f"there is no job {seen.job_id}")
        results, logs = self._stored(job, number)
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

    def _stored(self, job: Job, attempt: int) -> Listing:
        return (job.attempt == attempt and load_manifest(self._objects, job)) or ((), None)


def _pulled(seen: Observation) -> Iterator[Event]:
    if seen.image:
        yield Pulled(seen.attempt, seen.image)


def _retried(outcome: Outcome) -> bool:
    """Whether the fault is the infrastructure's: outputs that are missing or too many come again."""
    if outcome.cause in _RETRIED_IF_TRANSIENT:
        return outcome.transient
    return outcome.cause in _RETRIED


def _unwanted(job: Job, attempt: int) -> bool:
    """Whether the record says that this attempt is over, or is never to be."""
    return job.attempt > attempt or (job.workload is Workload.NONE and (job.phase.final or job.deleted))
