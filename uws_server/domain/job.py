"""The job: everything the server knows of it, as one frozen value.

How it changes stands in `uws_server.domain.events`; which phases may follow each other in
`uws_server.domain.phase`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from uws_server.domain.instants import Instant
from uws_server.domain.phase import Phase

ANONYMOUS = ""
"""The owner of jobs whose creator did not log in (UWS-19)."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Content that came inline with a job (UWS-56) and lies in the object store.

    ``size`` in bytes. ``key`` is its last segment there, another one each time, so that content that is
    refused or comes late takes nobody else's place.
    """

    size: int
    sha256: str
    media_type: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. With an ``upload`` the value is what the client called the content."""

    name: str
    value: str
    upload: Upload | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One result. ``name`` is relative to the attempt's prefix in the object store; ``size`` in bytes."""

    id: str
    name: str
    size: int
    media_type: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Why a job failed (UWS-70). ``transient``: the same job may work if it is tried again."""

    message: str
    transient: bool
    detail: str = ""


class Workload(StrEnum):
    """What the site owes the job's current attempt, apart from the phase that the client sees."""

    NONE = ""  # nothing runs and nothing is to run
    WAITING = "w"  # in the waiting line of its site and owner
    CLAIMED = "c"  # a worker is starting it, until its claim lapses
    ACTIVE = "a"  # the site has it
    STOPPING = "s"  # it is to end; counted until it is verified gone

    @property
    def holds_slot(self) -> bool:
        """Whether the attempt counts against what its site can run at once."""
        return self in _HOLDING


_HOLDING = frozenset({Workload.CLAIMED, Workload.ACTIVE, Workload.STOPPING})


@dataclass(frozen=True, slots=True)
class Job:
    """One UWS job.

    ``version`` grows by one with each change and is what compare-and-set compares. ``attempt``
    counts from 1 once the job was committed. ``logs`` are the sizes of stdout and stderr, in bytes,
    once they are final.
    """

    id: str
    service: str
    owner: str
    created: Instant
    phase: Phase = Phase.PENDING
    version: int = 1
    run_id: str = ""
    parameters: tuple[Parameter, ...] = ()
    duration: int = 0  # seconds, 0 = unlimited (UWS-15)
    destruction: Instant | None = None
    quote: Instant | None = None
    queued: Instant | None = None
    deferred: Instant | None = None  # when it went to the end of its line, others of its owner first
    started: Instant | None = None  # the user's code, in the first attempt
    attempt_started: Instant | None = None  # the user's code, in the current attempt
    ended: Instant | None = None
    site: str = ""
    workload: Workload = Workload.NONE
    attempt: int = 0
    lapses: int = 0  # claims of this attempt that lapsed: a worker may have started it all the same
    unproved: int = 0  # the last attempt that was given up although nobody saw it end
    cpu_milli: int = 1000
    memory_bytes: int = 0
    reason: str = ""
    stuck: Instant | None = None  # since when its site has seen that ``reason`` does not pass by waiting
    progress: tuple[int, int] | None = None
    results: tuple[Result, ...] = ()
    logs: tuple[int, int] | None = None
    error: ErrorSummary | None = None
    image: str = ""  # that the current attempt runs, with its digest, once the site tells
    template: str = ""  # digest of the template's text at creation
    deleted: bool = False

    @property
    def finalising(self) -> bool:
        """Whether results may still appear although the phase is final: the site may still store some."""
        return self.phase.final and self.workload is not Workload.NONE

    @property
    def in_line_since(self) -> Instant:
        """What its place in its owner's waiting line goes by."""
        return self.deferred or self.queued or self.created

    @property
    def touched(self) -> bool:
        """Whether its site may have something of the current attempt: a worker has had it in hand."""
        return self.workload.holds_slot or (self.workload is Workload.WAITING and self.lapses > 0)

    @property
    def prefix(self) -> str:
        """Where everything of this job lies in the object store."""
        return prefix_of(self.id)

    @property
    def attempt_prefix(self) -> str:
        """Where the current attempt writes in the object store."""
        return f"{self.prefix}/{self.attempt}"


def prefix_of(job_id: str) -> str:
    """Where everything of a job lies in the object store, also of one that did not come to be."""
    return f"jobs/{job_id}"
