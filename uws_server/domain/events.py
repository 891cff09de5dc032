"""What can happen to a job, and what becomes of the job then.

`advance` is the only way from one `Job` to the next. It is pure: it either returns the changed job,
the very same object when there is nothing to change (the event is an old one, or was applied
before), or raises `Forbidden` when a client asks for what the present phase does not permit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from uws_server.domain.errors import Forbidden
from uws_server.domain.instants import Instant
from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Workload
from uws_server.domain.phase import ABORTABLE, FINISHED, UNSTARTED, Phase, allows

LogSizes = tuple[int, int] | None
"""Bytes of stdout and of stderr."""


class Event(Protocol):
    """Something that happened, or is wished for."""

    def after(self, job: Job, now: Instant) -> Job:
        """The job after this event; see `advance`."""


def advance(job: Job, event: Event, now: Instant) -> Job:
    """The job after the event; the same object when it changes nothing.

    :raises Forbidden: the phase does not permit what the client wishes (UWS-06).
    """
    return event.after(job, now)


# -- wishes of a client or operator ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRequested:
    """``PHASE=RUN``, wished for at one instant: commit the job to a site's waiting line."""

    site: str
    cpu_milli: int
    memory_bytes: int
    at: Instant

    def after(self, job: Job, now: Instant) -> Job:
        """QUEUED, in line (UWS-25)."""
        if job.deleted:
            raise Forbidden("the job was deleted")
        if job.queued == self.at:
            return (
                job  # this very wish was stored, its reply lost, and a worker is quicker than its repetition
            )
        if job.phase not in UNSTARTED:
            raise Forbidden(f"a job in phase {job.phase} cannot be run; only PENDING and HELD ones can")
        return _to(
            job,
            Phase.QUEUED,
            queued=self.at,
            site=self.site,
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            workload=Workload.WAITING,
            attempt=max(job.attempt, 1),
            reason="",
        )


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """``PHASE=ABORT``. Said again of an aborted job it changes nothing (UWS-26)."""

    reason: str = ""

    def after(self, job: Job, now: Instant) -> Job:
        """ABORTED at once; the workload's end follows."""
        if job.phase is Phase.ABORTED:
            return job
        if job.phase not in ABORTABLE:
            raise Forbidden(f"a job in phase {job.phase} cannot be aborted")
        return _to(job, Phase.ABORTED, ended=now, workload=_ending(job), reason=self.reason)


@dataclass(frozen=True, slots=True)
class ParametersPut:
    """Parameters to add, or to take the place of those of the same name (UWS-61: only while PENDING).

    DALI counts RUNID among the parameters: None leaves it as it is.
    """

    parameters: tuple[Parameter, ...]
    run_id: str | None = None

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase with other parameters."""
        if job.phase is not Phase.PENDING:
            raise Forbidden(f"parameters can be changed while a job is PENDING, not in {job.phase}")
        run_id = job.run_id if self.run_id is None else self.run_id
        return _next(job, parameters=merged(job.parameters, self.parameters), run_id=run_id)


@dataclass(frozen=True, slots=True)
class DurationChanged:
    """Another execution duration, in seconds; until a worker has taken the job."""

    seconds: int

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase with another duration."""
        if job.phase.final or job.workload.holds_slot or job.started is not None:
            raise Forbidden("the execution duration can be changed only until the job starts")
        return _next(job, duration=self.seconds)


@dataclass(frozen=True, slots=True)
class DestructionChanged:
    """Another destruction time, while there is something to destroy."""

    at: Instant

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase with another destruction time."""
        if job.phase is Phase.ARCHIVED:
            raise Forbidden("the job is ARCHIVED; its destruction time has passed")
        return _next(job, destruction=self.at)


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """DELETE: the job vanishes at once; what runs of it is stopped first and then cleared away."""

    def after(self, job: Job, now: Instant) -> Job:
        """A hidden tombstone; its destruction time says when it was deleted."""
        if job.deleted:
            return job
        return _next(job, deleted=True, destruction=now, workload=_ending(job))


@dataclass(frozen=True, slots=True)
class DestructionDue:
    """The destruction time ``at`` has come (UWS-16); of one that was changed since, nothing happens."""

    at: Instant

    def after(self, job: Job, now: Instant) -> Job:
        """ARCHIVED, metadata only, once nothing runs; what has not ended is aborted first."""
        if job.destruction != self.at or job.deleted:
            return job
        if job.phase in ABORTABLE:
            reason = "its destruction time has come"
            return _to(job, Phase.ABORTED, ended=now, workload=_ending(job), reason=reason)
        if job.phase not in FINISHED or job.workload is not Workload.NONE:
            return job
        return _to(job, Phase.ARCHIVED, results=(), logs=None, reason=f"was {job.phase}")


# -- what worker and watcher found -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimLapsed:
    """The worker that held the claim is not heard of: back to the line, with the same attempt."""

    attempt: int

    def after(self, job: Job, now: Instant) -> Job:
        """In line again."""
        if not _current(job, self.attempt) or job.workload is not Workload.CLAIMED:
            return job
        return _next(job, workload=Workload.WAITING, lapses=job.lapses + 1)


@dataclass(frozen=True, slots=True)
class Unstartable:
    """A worker can make nothing of the job, now or ever; whether an earlier one could is to be seen."""

    attempt: int
    error: ErrorSummary

    def after(self, job: Job, now: Instant) -> Job:
        """ERROR; that nothing runs is verified after it."""
        if not _current(job, self.attempt) or job.workload is not Workload.CLAIMED or job.phase.final:
            return job
        return _to(job, Phase.ERROR, ended=now, error=self.error, workload=_ending(job), reason="")


@dataclass(frozen=True, slots=True)
class Postponed:
    """The site takes no more just now."""

    attempt: int
    reason: str

    def after(self, job: Job, now: Instant) -> Job:
        """In line again, with the reason."""
        if not _current(job, self.attempt) or job.workload is not Workload.CLAIMED:
            return job
        return _next(job, workload=Workload.WAITING, reason=self.reason)


@dataclass(frozen=True, slots=True)
class Deferred:
    """The site takes others, but not this attempt just now."""

    attempt: int
    reason: str

    def after(self, job: Job, now: Instant) -> Job:
        """At the end of the line, with the reason: what it waits for may take longer than the others do."""
        if not _current(job, self.attempt) or job.workload is not Workload.CLAIMED:
            return job
        return _next(job, workload=Workload.WAITING, reason=self.reason, deferred=now)


@dataclass(frozen=True, slots=True)
class Launched:
    """The site has taken the attempt."""

    attempt: int

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase; a lapsed claim that was good after all leaves the line again."""
        if not _current(job, self.attempt) or job.workload not in (Workload.CLAIMED, Workload.WAITING):
            return job
        return _next(job, workload=Workload.ACTIVE, reason=_doubt(job))


@dataclass(frozen=True, slots=True)
class Reasoned:
    """Why the attempt is not further.

    ``stuck``: seen at this instant, and not to pass by waiting; ``open``: that is not known just now.
    """

    attempt: int
    reason: str
    stuck: Instant | None = None
    open: bool = False

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase with the reason; stuck since this was first seen and nothing else between."""
        if not _current(job, self.attempt) or job.phase.final:
            return job
        first = self.open or (self.stuck is not None and job.stuck is not None)
        since = job.stuck if first else self.stuck
        if (job.reason, job.stuck) == (self.reason, since):
            return job
        return _next(job, reason=self.reason, stuck=since)


@dataclass(frozen=True, slots=True)
class WaitedInVain:
    """The attempt has been stuck at its site since an instant, for longer than the site allows."""

    attempt: int
    since: Instant
    error: ErrorSummary

    def after(self, job: Job, now: Instant) -> Job:
        """ERROR; the workload's end follows. Of what has got on meanwhile, or got stuck anew, nothing."""
        if not _current(job, self.attempt) or job.stuck != self.since or not allows(job.phase, Phase.ERROR):
            return job
        return _to(
            job,
            Phase.ERROR,
            ended=now,
            error=self.error,
            workload=_ending(job),
            stuck=None,
            reason=_doubt(job),
        )


@dataclass(frozen=True, slots=True)
class Pulled:
    """The site has the image that the attempt runs; its name has the digest."""

    attempt: int
    image: str

    def after(self, job: Job, now: Instant) -> Job:
        """The same phase with the image, also where the attempt ended before this was seen."""
        if not _current(job, self.attempt) or job.image == self.image:
            return job
        return _next(job, image=self.image)


@dataclass(frozen=True, slots=True)
class Started:
    """The user's code has started."""

    attempt: int
    at: Instant

    def after(self, job: Job, now: Instant) -> Job:
        """EXECUTING, also when it was so in an earlier attempt."""
        if not _current(job, self.attempt) or job.attempt_started is not None:
            return job
        if job.phase is Phase.EXECUTING:
            return _next(
                job, attempt_started=self.at, reason=_doubt(job), workload=Workload.ACTIVE, stuck=None
            )
        if not allows(job.phase, Phase.EXECUTING):
            return job
        return _to(
            job,
            Phase.EXECUTING,
            started=self.at,
            attempt_started=self.at,
            reason=_doubt(job),
            workload=Workload.ACTIVE,
            stuck=None,
        )


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The user's code has ended well and every result is stored."""

    attempt: int
    at: Instant
    results: tuple[Result, ...]
    logs: LogSizes

    def after(self, job: Job, now: Instant) -> Job:
        """COMPLETED."""
        if not _current(job, self.attempt) or not allows(job.phase, Phase.COMPLETED):
            return job
        return _ended(self, job, Phase.COMPLETED, None)


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt has ended and will not be tried again; ``results`` are what there is all the same."""

    attempt: int
    at: Instant
    error: ErrorSummary
    results: tuple[Result, ...]
    logs: LogSizes

    def after(self, job: Job, now: Instant) -> Job:
        """ERROR."""
        if not _current(job, self.attempt) or not allows(job.phase, Phase.ERROR):
            return job
        return _ended(self, job, Phase.ERROR, self.error)


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The execution duration was exceeded: the effect is that of an abort (UWS-15)."""

    attempt: int
    at: Instant

    def after(self, job: Job, now: Instant) -> Job:
        """ABORTED; the workload's end follows."""
        if not _current(job, self.attempt) or not allows(job.phase, Phase.ABORTED):
            return job
        reason = f"ran longer than its execution duration of {job.duration} s"
        return _to(job, Phase.ABORTED, ended=self.at, workload=_ending(job), reason=reason)


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """The infrastructure broke the attempt off.

    Up to ``attempts`` there is another one; then the job fails with ``error`` and keeps ``results``.
    ``proved``: it is known to have ended. Else its site has long not known of it, and the next attempt is
    started at the risk that the code runs twice, which the job then says of itself.
    """

    attempt: int
    at: Instant
    error: ErrorSummary
    attempts: int
    results: tuple[Result, ...] = ()
    logs: LogSizes = None
    proved: bool = True

    def after(self, job: Job, now: Instant) -> Job:
        """In line for the next attempt, or ERROR.

        The phase stays meanwhile: some clients take SUSPENDED for a failure.
        """
        if not _current(job, self.attempt) or job.phase.final:
            return job
        if self.attempt >= self.attempts:
            return _ended(self, job, Phase.ERROR, self.error)
        following = self.attempt + 1
        return _next(
            job,
            attempt=following,
            workload=Workload.WAITING,
            lapses=0,
            attempt_started=None,
            stuck=None,
            progress=None,
            image="",
            unproved=job.unproved if self.proved else self.attempt,
            reason=f"attempt {self.attempt} was lost ({self.error.message}); attempt {following} follows",
        )


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of the attempt is left at the site; ``results`` are what it could still store."""

    attempt: int
    results: tuple[Result, ...]
    logs: LogSizes

    def after(self, job: Job, now: Instant) -> Job:
        """The same final phase, no longer finalising."""
        if self.attempt != job.attempt or job.workload is Workload.NONE:
            return job
        if not (job.phase.final or job.deleted):
            return job
        return _next(
            job, workload=Workload.NONE, results=self.results or job.results, logs=self.logs or job.logs
        )


def merged(old: tuple[Parameter, ...], new: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """``old`` with every parameter named in ``new`` replaced by what ``new`` has, and the others kept."""
    names = {parameter.name for parameter in new}
    return (*(parameter for parameter in old if parameter.name not in names), *new)


def _current(job: Job, attempt: int) -> bool:
    return attempt == job.attempt and not job.deleted


def _ending(job: Job) -> Workload:
    # What waits has nothing to stop; what a worker has touched must be proved gone first.
    return Workload.STOPPING if job.touched else Workload.NONE


def _doubt(job: Job) -> str:
    """What is said of the attempt once there is no other reason to tell."""
    return f"the code may have run twice: nobody saw attempt {job.unproved} end" if job.unproved else ""


def _next(job: Job, **changes: Any) -> Job:
    return replace(job, version=job.version + 1, **changes)


def _to(job: Job, phase: Phase, **changes: Any) -> Job:
    if not allows(job.phase, phase):
        raise Forbidden(f"a job in phase {job.phase} cannot become {phase}")
    return _next(job, phase=phase, **changes)


def _ended(
    event: Succeeded | Failed | AttemptLost, job: Job, phase: Phase, error: ErrorSummary | None
) -> Job:
    return _to(
        job,
        phase,
        ended=event.at,
        results=event.results,
        logs=event.logs,
        error=error,
        workload=Workload.NONE,
        reason=_doubt(job),
    )
