"""The job lists of all services: every resource of UWS 1.1 below ``/{service}/async``.

Each view parses, makes one call, and renders. What a phase permits is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from job_templates.template import Template
from uws_server.domain.caller import Caller
from uws_server.domain.errors import BadRequest, Forbidden, NotFound, Unavailable
from uws_server.domain.instants import Instant, to_iso
from uws_server.domain.job import Job, Parameter
from uws_server.service.jobs import Content, Request
from uws_server.web import render_json, render_xml
from uws_server.web.addresses import Addresses, of_request
from uws_server.web.answers import document, redirect, text
from uws_server.web.files import hostile
from uws_server.web.incoming.body import chunks, whole
from uws_server.web.incoming.reading import reading
from uws_server.web.incoming.said import Said, check_name
from uws_server.web.incoming.urlencoded import query_pairs
from uws_server.web.incoming.wishes import described, json_parameters, wish
from uws_server.web.incoming.words import (
    CONTROL,
    Filters,
    read_duration,
    read_filters,
    read_instant,
    read_run_id,
    read_wait,
)
from uws_server.web.negotiate import wants_json
from uws_server.web.parts import Parts

_XML = "text/xml; charset=utf-8"
_JSON = "application/json"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,15}:\S{1,8192}")
_WITH_PARAMETERS = {"UPLOAD", "REQUEST", "RUNID"}  # words that DALI has among a job's parameters
_BACK_TO_LIST = 100  # jobs that a client sees that follows the redirect after DELETE (UWS-40)
_PAGE = 100  # jobs on a page of a JSON list, unless LAST says more or fewer

View = Callable[..., Response]


class JobResources:
    """The views. One object per application; it holds no state of any request."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._jobs = parts.jobs
        self._bounds = parts.bounds
        self._addresses = Addresses(parts.base_url.rstrip("/")) if parts.base_url else None

    def blueprint(self) -> Blueprint:
        """Every path below ``/{service}/async`` but the results, with its methods."""
        blueprint = Blueprint("jobs", __name__, url_prefix="/<service>/async")
        job = "/<job_id>"
        rules: tuple[tuple[str, dict[str, View]], ...] = (
            ("", {"GET": self.list_jobs, "POST": self.create}),
            (job, {"GET": self.job, "POST": self.post_job, "DELETE": self.delete}),
            (f"{job}/phase", {"GET": self.phase, "POST": self.post_phase}),
            (f"{job}/executionduration", {"GET": self.duration, "POST": self.post_duration}),
            (f"{job}/destruction", {"GET": self.destruction, "POST": self.post_destruction}),
            (f"{job}/quote", {"GET": self.quote}),
            (f"{job}/owner", {"GET": self.owner}),
            (f"{job}/error", {"GET": self.error}),
            (f"{job}/results", {"GET": self.results}),
            (f"{job}/parameters", {"GET": self.parameters, "POST": self.post_parameters}),
            (f"{job}/parameters/<path:name>", {"GET": self.parameter, "PUT": self.put_parameter}),
        )
        for rule, views in rules:
            for method, view in views.items():
                blueprint.add_url_rule(
                    rule, view.__name__, view, methods=[method], provide_automatic_options=False
                )
        return blueprint

    # -- the list ------------------------------------------------------------------------------------

    def list_jobs(self, service: str) -> Response:
        """GET ``/{service}/async``."""
        said = Said(query_pairs(request.environ, self._jobs.limits.parameters))
        filters = read_filters(said)
        as_json = wants_json(request.environ.get("HTTP_ACCEPT"))
        last = filters.last or (_PAGE if as_json else None)
        jobs = self._jobs.select(
            self.caller(),
            service,
            phases=filters.phases,
            after=filters.after,
            last=last,
            before=filters.cursor,
        )
        addresses = self.addresses()
        if not as_json:
            return document(render_xml.job_list(service, jobs, addresses), _XML)
        size = min(last or _PAGE, self._jobs.limits.list_jobs)
        following = _next_page(addresses, service, filters, jobs[-1]) if len(jobs) >= size else None
        return document(render_json.job_list(service, jobs, addresses, following), _JSON)

    def create(self, service: str) -> Response:
        """POST ``/{service}/async``: 303 to the new job (UWS-53)."""
        job = self.made(service)
        return redirect(self.addresses().job(service, job.id))

    def made(self, service: str, run: bool = False) -> Job:
        """The job that the current request describes."""
        if self._parts.draining():
            raise Unavailable("the server is about to stop and takes no new jobs", retry_after=30)
        template = self._parts.catalog.get(service)
        caller = self.caller()
        with reading(request, self._jobs.limits, self._bounds) as said:
            wanted = wish(said, _repeated(template))
            return self._jobs.create(
                caller,
                service,
                Request(
                    wanted.parameters,
                    wanted.uploads,
                    wanted.run or run,
                    wanted.run_id,
                    wanted.duration,
                    wanted.destruction,
                    _idempotency_key(),
                ),
            )

    # -- one job -------------------------------------------------------------------------------------

    def job(self, service: str, job_id: str) -> Response:
        """GET of the job; the only resource that blocks (UWS-43). HEAD does not."""
        environ = request.environ
        wait = None
        if environ.get("QUERY_STRING"):
            said = Said(query_pairs(environ, self._jobs.limits.parameters))
            wait = read_wait(said, self._bounds.wait_seconds)
        if wait is None or environ["REQUEST_METHOD"] == "HEAD":
            job = self._jobs.get(self.caller(), service, job_id)
        else:
            job = self._jobs.wait(self.caller(), service, job_id, *wait)
        return self._document(job, render_xml.job_document, render_json.job_document)

    def post_job(self, service: str, job_id: str) -> Response:
        """POST to the job: ``ACTION=DELETE``, and as a stated leniency one control word (UWS-62)."""
        with reading(request, self._jobs.limits, self._bounds) as said:
            action = said.one("ACTION")
            if action is not None:
                if action != "DELETE":
                    raise BadRequest(f"ACTION={action[:40]!r} is not known; ACTION=DELETE is")
                return self.delete(service, job_id)
            words = {name.upper() for name, _ in said.pairs} & set(self._changes)
            foreign = [name for name, _ in said.pairs if name.upper() not in self._changes]
            if foreign or said.sent:
                self._jobs.get(self.caller(), service, job_id)
                raise Forbidden("job parameters are posted to the job's /parameters, not to the job itself")
            if len(words) != 1:
                raise BadRequest(f"say one of {', '.join(self._changes)}, or ACTION=DELETE")
            return self._changes[words.pop()](self, service, job_id, said)

    def delete(self, service: str, job_id: str) -> Response:
        """DELETE of the job: 303 to the list (UWS-68)."""
        self._jobs.delete(self.caller(), service, job_id)
        return redirect(f"{self.addresses().jobs(service)}?LAST={_BACK_TO_LIST}")

    # -- what is text --------------------------------------------------------------------------------

    def phase(self, service: str, job_id: str) -> Response:
        """GET of the phase."""
        return text(self._get(service, job_id).phase.value)

    def duration(self, service: str, job_id: str) -> Response:
        """GET of the execution duration, in seconds."""
        return text(str(self._get(service, job_id).duration))

    def destruction(self, service: str, job_id: str) -> Response:
        """GET of the destruction time."""
        return text(_iso(self._get(service, job_id).destruction))

    def quote(self, service: str, job_id: str) -> Response:
        """GET of the quote; empty, as nobody can tell when a job will end."""
        return text(_iso(self._get(service, job_id).quote))

    def owner(self, service: str, job_id: str) -> Response:
        """GET of the owner; empty for an anonymous one."""
        return text(self._get(service, job_id).owner)

    def error(self, service: str, job_id: str) -> Response:
        """GET of the error: the summary's message first, then the detail (UWS-71, DALI-14)."""
        error = self._get(service, job_id).error
        if error is None:
            raise NotFound("this job has no error")
        return text(f"{error.message}\n\n{error.detail}" if error.detail else error.message)

    # -- changes of what is text ---------------------------------------------------------------------

    def post_phase(self, service: str, job_id: str) -> Response:
        """POST of ``PHASE=RUN`` or ``PHASE=ABORT``."""
        return self._post(service, job_id, JobResources._set_phase)

    def post_duration(self, service: str, job_id: str) -> Response:
        """POST of ``EXECUTIONDURATION``."""
        return self._post(service, job_id, JobResources._set_duration)

    def post_destruction(self, service: str, job_id: str) -> Response:
        """POST of ``DESTRUCTION``."""
        return self._post(service, job_id, JobResources._set_destruction)

    def _post(self, service: str, job_id: str, change: Callable[..., Response]) -> Response:
        with reading(request, self._jobs.limits, self._bounds) as said:
            return change(self, service, job_id, said)

    def _set_phase(self, service: str, job_id: str, said: Said) -> Response:
        wanted = said.need("PHASE")
        if wanted == "RUN":
            self._jobs.run(self.caller(), service, job_id)
        elif wanted == "ABORT":
            self._jobs.abort(self.caller(), service, job_id)
        else:
            raise BadRequest(f"PHASE={wanted[:40]!r} cannot be asked for; PHASE=RUN and PHASE=ABORT can")
        return self._to_job(service, job_id)

    def _set_duration(self, service: str, job_id: str, said: Said) -> Response:
        seconds = read_duration(said.need("EXECUTIONDURATION"))
        self._jobs.set_duration(self.caller(), service, job_id, seconds)
        return self._to_job(service, job_id)

    def _set_destruction(self, service: str, job_id: str, said: Said) -> Response:
        at = read_instant("DESTRUCTION", said.need("DESTRUCTION"))
        self._jobs.set_destruction(self.caller(), service, job_id, at)
        return self._to_job(service, job_id)

    _changes: ClassVar[dict[str, Callable[..., Response]]] = {
        "PHASE": _set_phase,
        "EXECUTIONDURATION": _set_duration,
        "DESTRUCTION": _set_destruction,
    }

    # -- parameters and results ----------------------------------------------------------------------

    def results(self, service: str, job_id: str) -> Response:
        """GET of the results list."""
        job = self._get(service, job_id)
        return self._document(job, render_xml.results_document, render_json.results_document)

    def parameters(self, service: str, job_id: str) -> Response:
        """GET of the parameters."""
        job = self._get(service, job_id)
        return self._document(job, render_xml.parameters_document, render_json.parameters_document)

    def post_parameters(self, service: str, job_id: str) -> Response:
        """POST of parameters: added, or in the place of those of the same name, while PENDING (UWS-62)."""
        repeated = _repeated(self._parts.catalog.get(service))
        with reading(request, self._jobs.limits, self._bounds) as said:
            uploads: dict[str, Content] = {}
            run_id = None
            if said.document is not None:
                parameters = json_parameters(said.document, repeated)
            else:
                parameters, uploads = described(said)
                run_id = read_run_id(said.one("RUNID"))
                words = [name for name, _ in said.pairs if name.upper() in CONTROL - _WITH_PARAMETERS]
                if words:
                    raise BadRequest(f"{words[0]} is a word of the protocol and no parameter of a job")
            if not parameters and run_id is None:
                raise BadRequest("no parameter was sent")
            self._jobs.set_parameters(self.caller(), service, job_id, parameters, uploads, run_id)
        return self._to_job(service, job_id)

    def parameter(self, service: str, job_id: str, name: str) -> Response:
        """GET of one parameter's value, or of the content that was uploaded for it."""
        job = self._get(service, job_id)
        found = [one for one in job.parameters if one.name == name] or [
            one for one in job.parameters if one.name.casefold() == name.casefold()
        ]
        if not found:
            raise NotFound(f"the job has no parameter {name[:80]!r}")
        upload = found[0].upload
        if upload is None:
            return text("\n".join(one.value for one in found))
        content = () if request.method == "HEAD" else self._jobs.parameter_content(job, found[0])
        response = Response(content, 200, content_type=upload.media_type, direct_passthrough=True)
        response.content_length = upload.size
        return hostile(response, upload.media_type, found[0].value)

    def put_parameter(self, service: str, job_id: str, name: str) -> Response:
        """PUT of one parameter: the body is the value; for a parameter that is a file, its content."""
        limits = self._jobs.limits
        check_name(name, limits.name_chars)
        if name.upper() in CONTROL:
            raise BadRequest(f"{name} is a word of the protocol and no parameter of a job")
        self._jobs.get(self.caller(), service, job_id)
        kind = self._parts.catalog.get(service).find(name)
        uploads: dict[str, Content] = {}
        if kind is not None and kind.type == "file":
            value = name
            media_type = request.environ.get("CONTENT_TYPE") or "application/octet-stream"
            pieces = chunks(request, limits.upload_bytes, self._bounds)
            first = next(pieces, b"")
            url = _as_url(first, request.content_length)
            if url is None:
                uploads[name] = Content(_again(first, pieces), media_type.partition(";")[0].strip())
            else:
                value = url
        else:
            value = _decoded(whole(request, limits.value_bytes, self._bounds))
        self._jobs.set_parameters(self.caller(), service, job_id, (Parameter(name, value),), uploads)
        return self._to_job(service, job_id)

    # -- shared --------------------------------------------------------------------------------------

    def caller(self) -> Caller:
        """Who makes the current request."""
        return self._parts.authenticator.authenticate(request.headers.get)

    def addresses(self) -> Addresses:
        """Addresses as the current client is to see them."""
        return self._addresses or of_request(request.environ)

    def _get(self, service: str, job_id: str) -> Job:
        return self._jobs.get(self.caller(), service, job_id)

    def _to_job(self, service: str, job_id: str) -> Response:
        return redirect(self.addresses().job(service, job_id))

    def _document(
        self, job: Job, xml: Callable[[Job, Addresses], bytes], json: Callable[[Job, Addresses], bytes]
    ) -> Response:
        if wants_json(request.environ.get("HTTP_ACCEPT")):
            return document(json(job, self.addresses()), _JSON)
        return document(xml(job, self.addresses()), _XML)


def _next_page(addresses: Addresses, service: str, filters: Filters, last: Job) -> str:
    query: list[tuple[str, Any]] = [("PHASE", phase.value) for phase in filters.phases]
    if filters.after is not None:
        query.append(("AFTER", to_iso(filters.after)))
    if filters.last is not None:
        query.append(("LAST", filters.last))
    query.append(("CURSOR", f"{last.created}-{last.id}"))
    return f"{addresses.jobs(service)}?{urlencode(query)}"


def _repeated(template: Template) -> Callable[[str], bool]:
    def repeated(name: str) -> bool:
        kind = template.find(name)
        return kind is not None and kind.multiple and kind.type != "json"

    return repeated


def _idempotency_key() -> str:
    key: str = request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if key and _KEY.fullmatch(key) is None:
        raise BadRequest("an Idempotency-Key has from 1 to 255 visible ASCII characters")
    return key


def _as_url(first: bytes, length: int | None) -> str | None:
    """The URL that a body for a file parameter consists of, if it is one."""
    if length is not None and length > len(first):
        return None
    value = first.decode(errors="replace").strip()
    return value if _URL.fullmatch(value) else None


def _again(first: bytes, rest: Any) -> Any:
    yield first
    yield from rest


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadRequest("the value is not UTF-8 text") from None


def _iso(instant: Instant | None) -> str:
    return "" if instant is None else to_iso(instant)
