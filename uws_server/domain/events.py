"""What can happen to a job, and what becomes of the job then.

`advance` is the only way from one `Job` to the next. It is pure: it either returns the changed job,
the very same object when there is nothing to change (the event is an old one, or was applied
before), or raises `Forbidden` when a client asks for what the present phase does not permit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from uws_server.domain.errors import Forbidden
from uws_server.domain.instants import Instant
from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Workload
from uws_server.domain.phase import ABORTABLE, FINISHED, UNSTARTED, Phase, allows

# -- wishes of a client or operator ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRequested:
    """``PHASE=RUN``: commit the job to a site's waiting line."""

    site: str
    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """``PHASE=ABORT``. Said again of an aborted job it changes nothing (UWS-26)."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class ParametersPut:
    """Parameters to add, or to take the place of those of the same name (UWS-61: only while PENDING)."""

    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class DurationChanged:
    """Another execution duration, in seconds; until a worker has taken the job."""

    seconds: int


@dataclass(frozen=True, slots=True)
class DestructionChanged:
    """Another destruction time, while there is something to destroy."""

    at: Instant


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """DELETE: the job vanishes at once; what runs of it is stopped first and then cleared away."""


@dataclass(frozen=True, slots=True)
class Archived:
    """The destruction time has come and results are gone (UWS-16)."""


# -- what worker and watcher found -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimLapsed:
    """The worker that held the claim is not heard of: back to the line, with the same attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Postponed:
    """The site takes no more just now."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The site has taken the attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Reasoned:
    """Why the attempt is not further."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Started:
    """The user's code has started."""

    attempt: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The user's code has ended well and every result is stored."""

    attempt: int
    at: Instant
    results: tuple[Result, ...]
    logs: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt has ended and will not be tried again; ``results`` are what there is all the same."""

    attempt: int
    at: Instant
    error: ErrorSummary
    results: tuple[Result, ...]
    logs: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The execution duration was exceeded: the effect is that of an abort (UWS-15)."""

    attempt: int
    at: Instant


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """The infrastructure broke the attempt off, and it is proved ended.

    Up to ``attempts`` there is another one; then the job fails with ``error``.
    """

    attempt: int
    at: Instant
    error: ErrorSummary
    attempts: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of the attempt is left at the site; ``results`` are what it could still store."""

    attempt: int
    results: tuple[Result, ...]
    logs: tuple[int, int] | None


Event = (
    RunRequested
    | AbortRequested
    | ParametersPut
    | DurationChanged
    | DestructionChanged
    | DeleteRequested
    | Archived
    | ClaimLapsed
    | Postponed
    | Launched
    | Reasoned
    | Started
    | Succeeded
    | Failed
    | TimedOut
    | AttemptLost
    | Gone
)


def advance(job: Job, event: Event, now: Instant) -> Job:
    """The job after the event; the same object when it changes nothing.

    :raises Forbidden: the phase does not permit what the client wishes (UWS-06).
    """
    match event:
        case RunRequested(site, cpu_milli, memory_bytes):
            if job.phase not in UNSTARTED:
                raise Forbidden(f"a job in phase {job.phase} cannot be run; only PENDING and HELD ones can")
            return _to(
                job,
                Phase.QUEUED,
                queued=now,
                site=site,
                cpu_milli=cpu_milli,
                memory_bytes=memory_bytes,
                workload=Workload.WAITING,
                attempt=max(job.attempt, 1),
                reason="",
            )
        case AbortRequested(reason):
            if job.phase is Phase.ABORTED:
                return job
            if job.phase not in ABORTABLE:
                raise Forbidden(f"a job in phase {job.phase} cannot be aborted")
            return _to(job, Phase.ABORTED, ended=now, workload=_ending(job), reason=reason)
        case ParametersPut(parameters):
            if job.phase is not Phase.PENDING:
                raise Forbidden(f"parameters can be changed while a job is PENDING, not in {job.phase}")
            return _next(job, parameters=merged(job.parameters, parameters))
        case DurationChanged(seconds):
            if job.phase.final or job.workload.holds_slot or job.started is not None:
                raise Forbidden("the execution duration can be changed only until the job starts")
            return _next(job, duration=seconds)
        case DestructionChanged(at):
            if job.phase is Phase.ARCHIVED:
                raise Forbidden("the job is ARCHIVED; its destruction time has passed")
            return _next(job, destruction=at)
        case DeleteRequested():
            return _next(job, deleted=True, workload=_ending(job))
        case Archived():
            if job.phase not in FINISHED or job.workload is not Workload.NONE:
                return job
            return _to(job, Phase.ARCHIVED, results=(), logs=None, reason=f"was {job.phase}")
        case ClaimLapsed(attempt):
            if not _current(job, attempt) or job.workload is not Workload.CLAIMED:
                return job
            return _next(job, workload=Workload.WAITING)
        case Postponed(attempt, reason):
            if not _current(job, attempt) or job.workload is not Workload.CLAIMED:
                return job
            return _next(job, workload=Workload.WAITING, reason=reason)
        case Launched(attempt):
            if not _current(job, attempt) or job.workload not in (Workload.CLAIMED, Workload.WAITING):
                return job
            return _next(job, workload=Workload.ACTIVE, reason="")
        case Reasoned(attempt, reason):
            if not _current(job, attempt) or job.phase.final or job.reason == reason:
                return job
            return _next(job, reason=reason)
        case Started(attempt, at):
            if not _current(job, attempt) or job.begun is not None:
                return job
            if job.phase is Phase.EXECUTING:  # a further attempt
                return _next(job, begun=at, reason="", workload=Workload.ACTIVE)
            if not allows(job.phase, Phase.EXECUTING):
                return job
            return _to(
                job, Phase.EXECUTING, started=at, begun=at, reason="", workload=Workload.ACTIVE
            )
        case Succeeded(attempt, at, results, logs):
            if not _current(job, attempt) or not allows(job.phase, Phase.COMPLETED):
                return job
            return _to(
                job,
                Phase.COMPLETED,
                ended=at,
                results=results,
                logs=logs,
                workload=Workload.NONE,
                reason="",
            )
        case Failed(attempt, at, error, results, logs):
            if not _current(job, attempt) or not allows(job.phase, Phase.ERROR):
                return job
            return _to(
                job,
                Phase.ERROR,
                ended=at,
                error=error,
                results=results,
                logs=logs,
                workload=Workload.NONE,
                reason="",
            )
        case TimedOut(attempt, at):
            if not _current(job, attempt) or not allows(job.phase, Phase.ABORTED):
                return job
            return _to(
                job,
                Phase.ABORTED,
                ended=at,
                workload=_ending(job),
                reason=f"ran longer than its execution duration of {job.duration} s",
            )
        case AttemptLost(attempt, at, error, attempts):
            if not _current(job, attempt) or job.phase.final:
                return job
            if attempt >= attempts:
                return _to(job, Phase.ERROR, ended=at, error=error, workload=Workload.NONE, reason="")
            return _next(
                job,
                attempt=attempt + 1,
                workload=Workload.WAITING,
                progress=None,
                begun=None,
                reason=f"attempt {attempt} was lost ({error.message}); attempt {attempt + 1} follows",
            )
        case Gone(attempt, results, logs):
            if attempt != job.attempt or job.workload is Workload.NONE:
                return job
            if not (job.phase.final or job.deleted):
                return job
            return _next(job, workload=Workload.NONE, results=results or job.results, logs=logs or job.logs)
    assert_never(event)


def merged(old: tuple[Parameter, ...], new: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """``old`` with every parameter named in ``new`` replaced by what ``new`` has, and the others kept."""
    names = {parameter.name for parameter in new}
    return (*(parameter for parameter in old if parameter.name not in names), *new)


def _current(job: Job, attempt: int) -> bool:
    return attempt == job.attempt and not job.deleted


def _ending(job: Job) -> Workload:
    # What waits has nothing to stop; what a worker has touched must be proved gone first.
    return Workload.STOPPING if job.workload.holds_slot else Workload.NONE


def _next(job: Job, **changes: Any) -> Job:
    return replace(job, version=job.version + 1, **changes)


def _to(job: Job, phase: Phase, **changes: Any) -> Job:
    if not allows(job.phase, phase):
        raise Forbidden(f"a job in phase {job.phase} cannot become {phase}")
    return _next(job, phase=phase, **changes)
