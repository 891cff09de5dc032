"""WAIT (UWS-43 to UWS-51): parked callers, woken by the event stream.

One reader per process follows the stream from a remembered id. A caller is registered *before* its
job is read, so that an event between reading and waiting is not missed. When the reader sees an
event of a job that somebody waits for, it reads the job once, for all who wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from uws_server.domain.job import Job
from uws_server.domain.phase import ACTIVE, Phase
from uws_server.store.base import JobStore, StoreUnavailable

log = logging.getLogger(__name__)

_REST_SECONDS = 0.02
_AT_ONCE = 5
_BREATH_SECONDS = 0.001


class _Parked:
    """Callers who wait for one job; each is woken by the release of a lock of its own."""

    __slots__ = ("job", "locks")

    def __init__(self) -> None:
        self.locks: set[threading.Lock] = set()
        self.job: Job | None = None


class Waiting:
    """Blocks callers until a job's phase changes. `run` must be running in a thread or greenlet.

    Costs one read per call, and one per event of a job that is waited for, however many wait.
    """

    def __init__(self, store: JobStore, most: int) -> None:
        self._store = store
        self._most = most
        self._count = 0
        self._parked: dict[str, _Parked] = {}
        self._guard = threading.Lock()
        self._stopped = False

    def wait(
        self, job_id: str, seconds: float, check: Callable[[Job | None], Job], phase: Phase | None = None
    ) -> Job:
        """The job once its phase is no longer what it was, at the latest after ``seconds``.

        ``check`` turns what was read into a job that the caller may see, or raises; it is called
        before anybody is made to wait. Above the cap on waiters it returns at once (UWS-48).

        :param phase: return at once when the job is in another phase (UWS-47).
        """
        deadline = time.monotonic() + seconds
        lock = threading.Lock()
        lock.acquire()
        parked = self._park(job_id, lock)
        try:
            job = check(self._store.get(job_id))
            if job.phase not in ACTIVE or (phase is not None and job.phase is not phase) or parked is None:
                return job
            arrival = job.phase
            while job.phase is arrival and not self._stopped:
                if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    return check(self._store.get(job_id))
                # Woken without news, the reader had lost the stream.
                job = check(parked.job or self._store.get(job_id))
                if job.phase is arrival and not self._stopped:
                    self._leave(job_id, lock)
                    parked = self._park(job_id, lock)
                    job = check(self._store.get(job_id))
                    if parked is None:
                        return job
            return job
        finally:
            self._leave(job_id, lock)

    def run(self) -> None:
        """Follow the event stream until `stop`."""
        after: str | None = None
        while not self._stopped:
            try:
                if after is None:
                    after = self._store.last_event()
                    self._wake_all()
                before = after
                changed: dict[str, None] = {}
                for event in self._store.events(after, timeout=5):
                    after = event.id
                    if event.kind == "phase" and event.job_id in self._parked:
                        changed[event.job_id] = None
                if changed:
                    self._wake(list(changed))
                if after != before:
                    # Every change anywhere wakes the reader of every process: a short rest lets
                    # events come in batches, so that a busy server does not spend itself on reading.
                    time.sleep(_REST_SECONDS)
            except Exception as error:
                # Whatever it is: without this thread nobody would be woken any more.
                if not isinstance(error, StoreUnavailable):
                    log.exception("the events cannot be followed; it is tried again")
                # Jobs may have changed unseen, or the stream been cut: all read again.
                after = None
                time.sleep(0.2)

    def stop(self) -> None:
        """Answer everybody now, and take no more: the process is going to end."""
        self._stopped = True
        self._wake_all()

    @property
    def count(self) -> int:
        """How many wait."""
        return self._count

    def _park(self, job_id: str, lock: threading.Lock) -> _Parked | None:
        with self._guard:
            if self._count >= self._most or self._stopped:
                return None
            parked = self._parked.get(job_id)
            if parked is None:
                parked = self._parked[job_id] = _Parked()
            parked.locks.add(lock)
            self._count += 1
            return parked

    def _leave(self, job_id: str, lock: threading.Lock) -> None:
        with self._guard:
            parked = self._parked.get(job_id)
            if parked is not None and lock in parked.locks:
                parked.locks.discard(lock)
                self._count -= 1
                if not parked.locks:
                    del self._parked[job_id]

    def _wake(self, job_ids: list[str]) -> None:
        jobs = self._store.get_many(job_ids)
        for job_id, job in zip(job_ids, jobs, strict=True):
            with self._guard:
                parked = self._parked.pop(job_id, None)
                if parked is None:
                    continue
                self._count -= len(parked.locks)
            parked.job = job
            if len(parked.locks) <= _AT_ONCE:
                _release(parked)
            else:
                threading.Thread(target=_release, args=(parked,), name=f"waking {job_id}").start()

    def _wake_all(self) -> None:
        with self._guard:
            everybody = list(self._parked.values())
            self._parked.clear()
            self._count = 0
        for parked in everybody:
            _release(parked)


def _release(parked: _Parked) -> None:
    """Wake callers, with a breath after every few: thousands at once would keep others waiting."""
    for number, lock in enumerate(parked.locks, 1):
        lock.release()
        if number % _AT_ONCE == 0:
            time.sleep(_BREATH_SECONDS)
