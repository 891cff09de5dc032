"""What a job store offers. Every change is one atomic call; nothing here decides what may happen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.domain.phase import Phase

SCHEMA = 1
"""The version of what a store keeps, and under which names: the newest that this program knows.

A later version raises it when an earlier program could misread what it writes, reads every version from 1 on,
and writes its own where it changes a record. The stored number follows by a compare-and-set, once no process
of the earlier version runs: from then on those refuse to start (`JobStore.schema`).
"""


class Due(Enum):
    """The time-ordered indexes that the reconciler works from; never a walk over all jobs."""

    DESTRUCTION = "destruction"  # scored by destruction time
    DEADLINE = "deadline"  # executing jobs, by the end of their execution duration
    CLAIM = "claim"  # claimed jobs, by the lapse of the claim
    STOP = "stop"  # attempts to be stopped, by the instant of the wish
    CLEARANCE = "clearance"  # what may lie in the object store without need, by when to clear it away


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a site can run at once. ``jobs`` attempts, thousandths of a core, bytes of memory.

    ``gpu`` is what one attempt may ask for; none are counted, for the local site has none.
    """

    jobs: int
    cpu_milli: int
    memory_bytes: int
    gpu: int = 0

    def never_fits(self, job: Job) -> bool:
        """Whether a job asks for more than all of it."""
        return job.cpu_milli > self.cpu_milli or job.memory_bytes > self.memory_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for a site, ``oldest_seconds`` being how long the first has, and the attempts that it has.

    ``owners`` with an empty line may be among those counted, until a worker comes by.
    """

    jobs: int
    owners: int
    oldest_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs of one service and owner a list shows: newest first, filters ANDed (UWS-35 to UWS-38).

    ``after`` excludes; ``before`` is a cursor, the (created, id) of the last job already seen.
    """

    service: str
    owner: str
    phases: frozenset[Phase]
    limit: int
    after: Instant | None = None
    before: tuple[Instant, str] | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry of the event stream, ordered by ``id``. ``phase`` is '' once the job was deleted.

    Entries of kind ``progress`` leave the phase as it was.
    """

    id: str
    job_id: str
    owner: str
    service: str
    phase: str
    kind: str = "phase"


@dataclass(frozen=True, slots=True)
class Quota:
    """What one attempt may store: bytes of all its results, how many, and bytes of each log."""

    bytes: int
    files: int
    log_bytes: int


@dataclass(frozen=True, slots=True)
class Planned:
    """One object that an attempt is about to store, ``size`` in bytes.

    A segment of a log has its ``offset`` in that log, and the log's ``name``.
    """

    name: str
    size: int
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act as ``name`` until it is not renewed. ``fence`` grows with each new holder."""

    name: str
    holder: str
    fence: int


class FencedOff(Exception):
    """The lease under which a change was to be made is another's by now; nothing was changed."""


class KeyReused(Exception):
    """The idempotency key was used for another request."""


class ClearanceDue(Exception):
    """A job's content was on its way for so long that it may be cleared away by now."""


class StoreUnavailable(Exception):
    """The store does not answer or does not take writes; nothing is known to have changed."""


def turned_away(before: Job | None, after: Job) -> bool:
    """Whether the site took no more when it was the job's turn, which its owner is given back."""
    if before is None or (before.workload, after.workload) != (Workload.CLAIMED, Workload.WAITING):
        return False
    return (before.attempt, before.lapses, before.deferred) == (after.attempt, after.lapses, after.deferred)


class JobStore(Protocol):
    """Job records and their indexes. Any call may raise `StoreUnavailable`."""

    def create(self, job: Job, key: str = "", fingerprint: str = "") -> Job:
        """Store a new job. With an idempotency ``key`` used before, the job that was made then.

        :raises KeyReused: the key stands for a request with another fingerprint.
        :raises ClearanceDue: it has uploads, and their clearance is due or was not scheduled.
        """

    def get(self, job_id: str) -> Job | None:
        """The job, deleted ones included until they are removed; None when there is none."""

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """As `get`, in one round trip; None also for a record that cannot be read, which is logged."""

    def select(self, selection: Selection) -> list[Job]:
        """The newest jobs of a selection, newest first. Parameters and results may be left out."""

    def change(self, before: Job, after: Job, lease: Lease | None = None) -> bool:
        """Replace ``before`` by ``after`` with all that follows from it: indexes, event, waiting line.

        False when ``before`` is not what is stored: somebody else was first, nothing was changed.

        :raises FencedOff: ``lease`` has passed to another holder.
        """

    def schedule_clearance(self, job_id: str, at: Instant) -> None:
        """Note that the content of a job is to be cleared away from ``at`` on, whatever was noted before.

        It may be a job that is not created yet: `create` takes the note away, in time or not at all.
        """

    def cleared(self, job_id: str, seen: Job | None, *, forget: bool = False) -> bool:
        """Take away the note for CLEARANCE, and with ``forget`` the job's record.

        False, with nothing done, when the job is not as it was ``seen`` (None: there was none).
        """

    def claim(self, site: str, capacity: Capacity, seconds: float) -> str | None:
        """Take the next job that fits from the site's waiting lines, for ``seconds``.

        Owners take turns: the one served least lately is first. A bounded number of heads is looked at.
        One that `Capacity.never_fits` is taken too, lest it keep back its owner's others.
        """

    def report(self, job_id: str, attempt: int, done: int, of: int) -> None:
        """Note progress of the current attempt; of any other, nothing happens."""

    def begin(self, job_id: str, attempt: int, place: str) -> bool:
        """Let the code of an attempt start in one place, such as a pod: the first that asks.

        The same place is answered the same again. False where another was first, and when the attempt is
        not to start, or not any more.
        """

    def count(self, job_id: str, attempt: int, planned: Sequence[Planned], quota: Quota) -> int | None:
        """Count what an attempt is about to store, all of it or nothing.

        A name counts once, with the largest size asked for. A log counts by its end: a segment begins
        where the one before ends, or is that one again. Counts go when the attempt has ended.

        :return: None when all of it was counted; else which one of ``planned`` is over the quota.
        """

    def now(self) -> Instant:
        """The store's own time, which all who work from its time-ordered indexes share."""

    def due(self, what: Due, now: Instant, site: str = "", limit: int = 100) -> list[str]:
        """The ids of jobs whose time has come, earliest first; for STOP those of one site."""

    def waiting(self, site: str) -> int:
        """How many owners have jobs in the site's waiting lines; 0 = nothing to start."""

    def load(self, site: str) -> Load:
        """What waits for a site and what it runs, for operators.

        Its work grows with the owners that wait, of whom a bounded number is looked at, not with their jobs.
        """

    def report_capacity(self, site: str, capacity: Capacity) -> None:
        """Note what a site can run, as who serves it says. The last word stands until there is another."""

    def capacity(self, site: str) -> Capacity | None:
        """What a site was last said to be able to run; None while nobody has said anything."""

    def given(self, site: str) -> dict[tuple[str, int], bool]:
        """The attempts (job id, number) that a site was given and may still have.

        True for those that are wanted there: the site took them, and their end is not recorded. False for
        those that are over or to end, until they are `forgotten`. Kept by the same call as the change of the
        job; grows with what the site has, never with stored jobs.
        """

    def forgotten(self, site: str, attempts: Collection[tuple[str, int]]) -> None:
        """Note that a site has nothing of these attempts any more."""

    def lease(self, name: str, holder: str, seconds: float) -> Lease | None:
        """Take or renew a lease; None while another holder has it."""

    def release(self, lease: Lease) -> None:
        """Give a lease back early."""

    def events(self, after: str, timeout: float) -> Iterable[JobEvent]:
        """Entries of the event stream later than id ``after``, waiting up to ``timeout`` s for the first.

        ``after`` is "" for the beginning of what is kept.
        """

    def last_event(self) -> str:
        """The id of the newest entry of the event stream, "" when there is none."""

    def schema(self, ours: int = SCHEMA) -> int:
        """The version of what is kept here, see `SCHEMA`.

        Where none is noted yet it is noted now: ``ours`` for an empty store, 1 for one that has had jobs. Of
        several that ask at once all are told the same.
        """

    def check(self) -> list[str]:
        """Sentences about what keeps the store from being durable; none when all is well."""
