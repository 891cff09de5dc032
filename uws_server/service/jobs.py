"""What a client can do with jobs. Every call carries the caller and checks what is theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from job_templates.catalog import Catalog
from job_templates.template import Template
from uws_server.domain.caller import Caller
from uws_server.domain.errors import BadRequest, Conflict, Forbidden, NotFound, Refused, TooLarge, Unavailable
from uws_server.domain.events import (
    AbortRequested,
    DeleteRequested,
    DestructionChanged,
    DurationChanged,
    Event,
    ParametersPut,
    RunRequested,
    advance,
    merged,
)
from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Parameter, prefix_of
from uws_server.domain.phase import LISTED, Phase
from uws_server.service.changes import Changes, Clock
from uws_server.service.placement import Site, site_for
from uws_server.service.uploads import Content, Uploads, contents, streamed
from uws_server.service.waiting import Waiting
from uws_server.storage.base import NotStored, ObjectStore, StorageUnavailable
from uws_server.store.base import ClearanceDue, JobStore, KeyReused, Selection

_UPLOAD_TIME = 3600_000
"""How long, in ms, the files of a job may be on their way."""


@dataclass(frozen=True, slots=True)
class Request:
    """A job as a client describes it. ``None`` leaves a choice to the template.

    ``uploads`` maps parameter names to content; the parameter's value is the file's name.
    """

    parameters: Sequence[Parameter] = ()
    uploads: Mapping[str, Content] = field(default_factory=dict)
    run: bool = False
    run_id: str = ""
    duration: int | None = None
    destruction: Instant | None = None
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may bring. Bytes, and counts."""

    upload_bytes: int = 1024**3
    value_bytes: int = 1024**2
    parameters: int = 1000
    name_chars: int = 256
    list_jobs: int = 1000


class Jobs:
    """The job lists of all services."""

    def __init__(
        self,
        *,
        store: JobStore,
        changes: Changes,
        waiting: Waiting,
        objects: ObjectStore,
        catalog: Catalog,
        sites: Mapping[str, Site],
        clock: Clock,
        new_id: Callable[[], str],
        limits: RequestLimits | None = None,
    ) -> None:
        self._store = store
        self._changes = changes
        self._waiting = waiting
        self._objects = objects
        self._catalog = catalog
        self._sites = sites
        self._clock = clock
        self._new_id = new_id
        self.limits = limits or RequestLimits()
        self._uploads = Uploads(objects, new_id, self.limits.upload_bytes)

    # -- making ------------------------------------------------------------------------------------

    def create(self, caller: Caller, service: str, request: Request) -> Job:
        """A new job, PENDING, or QUEUED when the request says so.

        Cost: one script call and those of `site_for`; with uploads two calls more, and one PUT each.

        :raises BadRequest: a parameter is unknown or ill-typed; the sentence names it.
        :raises Conflict: the idempotency key was used for something else.
        :raises TooLarge: over a limit.
        """
        template = self._catalog.get(service)
        self._check_size(request.parameters)
        parameters = self._named(template, request.parameters)
        self._uploads.check_before(template, "", parameters, request.uploads)
        wish = self._placed(template, parameters)
        job_id = self._new_id()
        if not request.uploads:
            return self._commit(caller, template, job_id, parameters, request, wish)
        # Noted first: content that no job comes to is cleared away by the reconciler.
        self._store.schedule_clearance(job_id, self._store.now() + _UPLOAD_TIME)
        try:
            parameters = self._uploads.store(job_id, template, parameters, request.uploads)
            if streamed(request.uploads):
                self._uploads.check(template, job_id, parameters)
            stored = self._commit(caller, template, job_id, parameters, request, wish)
        except Refused:
            # Certainly no job. Where it is not known, because the store did not answer, nothing is removed.
            self._objects.delete(prefix_of(job_id))
            raise
        if stored.id != job_id:
            self._objects.delete(prefix_of(job_id))
        return stored

    def _commit(
        self,
        caller: Caller,
        template: Template,
        job_id: str,
        parameters: tuple[Parameter, ...],
        request: Request,
        wish: Callable[[Instant], RunRequested],
    ) -> Job:
        now = self._clock()
        job = Job(
            id=job_id,
            service=template.name,
            owner=caller.owner,
            created=now,
            run_id=request.run_id,
            parameters=parameters,
            duration=template.duration(request.duration),
            destruction=now + template.retention() * 1000
            if request.destruction is None
            else self._destruction(template, request.destruction, now),
            template=template.digest,
        )
        if request.run:
            job = replace(advance(job, wish(now), now), version=1)
        fingerprint = _fingerprint(template.name, request, parameters) if request.idempotency_key else ""
        try:
            stored = self._store.create(job, request.idempotency_key, fingerprint)
        except KeyReused:
            stored = None
        except ClearanceDue:
            raise Unavailable("the files took too long to come; send the job again") from None
        if stored is None or stored.deleted:
            # A request that is repeated late must not bring back what was deleted, nor run it again.
            raise Conflict(
                f"the Idempotency-Key {request.idempotency_key[:64]!r} was used for another request, "
                "or for a job that is deleted since"
            )
        if stored.id == job.id:
            self._changes.follow(None, job)
        return stored

    def _check_size(self, parameters: Sequence[Parameter]) -> None:
        if len(parameters) > self.limits.parameters:
            raise TooLarge(f"{len(parameters)} parameters are more than the {self.limits.parameters} taken")
        total = 0
        for parameter in parameters:
            if len(parameter.name) > self.limits.name_chars:
                raise BadRequest(
                    f"the parameter name {parameter.name[:40]!r}… is longer than "
                    f"{self.limits.name_chars} characters"
                )
            total += len(parameter.value)
        if total > self.limits.value_bytes:
            raise TooLarge(
                f"parameter values of {total} characters are more than the {self.limits.value_bytes} taken; "
                "send large content as a file"
            )

    def _named(self, template: Template, parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
        return tuple(replace(parameter, name=template.canonical(parameter.name)) for parameter in parameters)

    def _placed(
        self, template: Template, parameters: Sequence[Parameter]
    ) -> Callable[[Instant], RunRequested]:
        """The wish to run a job with these parameters, but for its instant: where it would run, with what.

        :raises BadRequest: no site could ever run it; known before that is wished for.
        """
        resources = template.resources_of(parameters)
        site = site_for(self._sites.values(), template, resources)
        return partial(RunRequested, site.name, resources.cpu_milli, resources.memory_bytes)

    def _destruction(self, template: Template, wish: Instant, now: Instant) -> Instant:
        # A wish in the past means "destroy now" (UWS-67); one beyond the ceiling is clipped (UWS-66).
        ceiling = template.retention_ceiling()
        return min(wish, now + ceiling * 1000) if ceiling else wish

    # -- reading -----------------------------------------------------------------------------------

    def get(self, caller: Caller, service: str, job_id: str) -> Job:
        """The job, in one round trip.

        :raises NotFound: no such service, or no such job in it.
        :raises Forbidden: it is somebody else's.
        """
        self._catalog.get(service)
        return self._visible(caller, service, job_id, self._store.get(job_id))

    def wait(
        self, caller: Caller, service: str, job_id: str, seconds: float, phase: Phase | None = None
    ) -> Job:
        """As `get`, once the phase has changed or ``seconds`` are over; see `Waiting.wait`."""
        self._catalog.get(service)
        return self._waiting.wait(
            job_id, seconds, lambda job: self._visible(caller, service, job_id, job), phase
        )

    def select(
        self,
        caller: Caller,
        service: str,
        *,
        phases: Iterable[Phase] = (),
        after: Instant | None = None,
        last: int | None = None,
        before: tuple[Instant, str] | None = None,
    ) -> list[Job]:
        """The caller's jobs in a service, newest first, at most ``last`` and at most the server's limit."""
        self._catalog.get(service)
        wanted = frozenset(phases) or LISTED
        limit = min(last or self.limits.list_jobs, self.limits.list_jobs)
        return self._store.select(Selection(service, caller.owner, wanted, limit, after, before))

    def parameter_content(self, job: Job, parameter: Parameter) -> Iterable[bytes]:
        """The content of an inline upload.

        :raises NotFound: it is gone.
        """
        try:
            return self._uploads.read(job.id, parameter)
        except NotStored:
            raise NotFound(f"the content of parameter {parameter.name!r} is gone") from None

    def _visible(self, caller: Caller, service: str, job_id: str, job: Job | None) -> Job:
        if job is None or job.deleted or job.service != service:
            raise NotFound(f"there is no job {job_id[:64]!r} in service {service!r}")
        if job.owner != caller.owner:
            raise Forbidden("this job is somebody else's")
        return job

    # -- changing ------------------------------------------------------------------------------------

    def run(self, caller: Caller, service: str, job_id: str) -> Job:
        """``PHASE=RUN``: QUEUED is stored when this returns."""
        template = self._catalog.get(service)
        now = self._clock()

        def wish(found: Job) -> RunRequested:
            wanted = self._placed(template, found.parameters)(now)
            advance(found, wanted, now)  # refused before the parameters are looked at
            self._uploads.check(template, found.id, found.parameters)
            return wanted

        return self._change(caller, service, job_id, wish)

    def abort(self, caller: Caller, service: str, job_id: str) -> Job:
        """``PHASE=ABORT``: ABORTED is stored when this returns; the workload's end follows."""
        return self._change(caller, service, job_id, lambda _: AbortRequested())

    def set_duration(self, caller: Caller, service: str, job_id: str, seconds: int) -> Job:
        """Another execution duration, clipped to the template's ceiling."""
        wish = DurationChanged(self._catalog.get(service).duration(seconds))
        return self._change(caller, service, job_id, lambda _: wish)

    def set_destruction(self, caller: Caller, service: str, job_id: str, at: Instant) -> Job:
        """Another destruction time, clipped to the template's ceiling; one in the past means now."""
        wish = DestructionChanged(self._destruction(self._catalog.get(service), at, self._clock()))
        return self._change(caller, service, job_id, lambda _: wish)

    def delete(self, caller: Caller, service: str, job_id: str) -> None:
        """The job vanishes at once; see `DeleteRequested`."""
        self._change(caller, service, job_id, lambda _: DeleteRequested())

    def _change(self, caller: Caller, service: str, job_id: str, wish: Callable[[Job], Event]) -> Job:
        """Apply what somebody wishes of a job that they may see; nothing is read besides."""
        self._catalog.get(service)
        return self._changes.apply(job_id, lambda found: wish(self._visible(caller, service, job_id, found)))

    def changeable(self, caller: Caller, service: str, job_id: str) -> Job:
        """The job, if its parameters can be changed now: to be asked before any of them is read.

        :raises Forbidden: it is somebody else's, or not PENDING.
        """
        job = self.get(caller, service, job_id)
        advance(job, ParametersPut(()), self._clock())
        return job

    def set_parameters(
        self,
        job: Job,
        parameters: Sequence[Parameter],
        uploads: Mapping[str, Content] | None = None,
        run_id: str | None = None,
    ) -> Job:
        """Add and replace parameters of a `changeable` job; every other one stays (UWS-61, UWS-62).

        Content that is refused, and content that was replaced, is removed at once; what a crash leaves in
        between goes with the job.
        """
        template = self._catalog.get(job.service)
        self._check_size(parameters)
        changed = self._named(template, parameters)
        if uploads:
            self._uploads.check_before(template, job.id, merged(job.parameters, changed), uploads)
            changed = self._uploads.store(job.id, template, changed, uploads)
        before = job

        def wish(found: Job) -> ParametersPut:
            nonlocal before
            before = self._visible(Caller(job.owner), job.service, job.id, found)
            everything = merged(found.parameters, changed)
            self._check_size(everything)
            self._uploads.check(template, found.id, everything)
            self._placed(template, everything)
            return ParametersPut(changed, run_id)

        try:
            after = self._changes.apply(job.id, wish)
        except Refused:
            self._uploads.remove(job.id, contents(changed).values())
            raise
        kept = contents(after.parameters)
        with suppress(StorageUnavailable):  # then it goes with the job
            self._uploads.remove(
                job.id, [was for key, was in contents(before.parameters).items() if key not in kept]
            )
        return after


def _fingerprint(service: str, request: Request, parameters: tuple[Parameter, ...]) -> str:
    same = [replace(p, upload=replace(p.upload, key="")) if p.upload else p for p in parameters]
    said = repr((service, same, request.run, request.run_id, request.duration, request.destruction))
    return hashlib.sha256(said.encode()).hexdigest()
