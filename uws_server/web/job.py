"""One job: its document, its phase, times and error, and how clients change them.

Each view parses, makes one call, and renders. What a phase permits is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from flask import Blueprint, Response, request

from uws_server.domain.errors import BadRequest, Forbidden, NotFound
from uws_server.domain.instants import Instant, to_iso
from uws_server.domain.job import Job
from uws_server.web import render_json, render_xml
from uws_server.web.answers import redirect, text
from uws_server.web.current import Current
from uws_server.web.incoming.reading import reading
from uws_server.web.incoming.said import Said
from uws_server.web.incoming.urlencoded import query_pairs
from uws_server.web.incoming.words import read_duration, read_instant, read_wait
from uws_server.web.parts import Parts

_BACK_TO_LIST = 100  # jobs that a client sees that follows the redirect after DELETE (UWS-40)

View = Callable[..., Response]


class JobResources:
    """The views. One object per application; it holds no state of any request."""

    def __init__(self, parts: Parts, current: Current) -> None:
        self._current = current
        self._jobs = parts.jobs
        self._bounds = parts.bounds

    def blueprint(self) -> Blueprint:
        """``/{service}/async/{id}`` and what is below it, but the parameters and the single results."""
        blueprint = Blueprint("job", __name__, url_prefix="/<service>/async/<job_id>")
        rules: tuple[tuple[str, dict[str, View]], ...] = (
            ("", {"GET": self.job, "POST": self.post_job, "DELETE": self.delete}),
            ("/phase", {"GET": self.phase, "POST": self.post_phase}),
            ("/executionduration", {"GET": self.duration, "POST": self.post_duration}),
            ("/destruction", {"GET": self.destruction, "POST": self.post_destruction}),
            ("/quote", {"GET": self.quote}),
            ("/owner", {"GET": self.owner}),
            ("/error", {"GET": self.error}),
            ("/results", {"GET": self.results}),
        )
        for rule, views in rules:
            for method, view in views.items():
                blueprint.add_url_rule(
                    rule, view.__name__, view, methods=[method], provide_automatic_options=False
                )
        return blueprint

    # -- one job -------------------------------------------------------------------------------------

    def job(self, service: str, job_id: str) -> Response:
        """GET of the job; the only resource that blocks (UWS-43). HEAD does not."""
        environ = request.environ
        wait = None
        if environ.get("QUERY_STRING"):
            said = Said(query_pairs(environ, self._jobs.limits.parameters))
            wait = read_wait(said, self._bounds.wait_seconds)
        if wait is None or environ["REQUEST_METHOD"] == "HEAD":
            job = self._jobs.get(self._current.caller(), service, job_id)
        else:
            job = self._jobs.wait(self._current.caller(), service, job_id, *wait)
        return self._current.document(job, render_xml.job_document, render_json.job_document)

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
                self._jobs.get(self._current.caller(), service, job_id)
                raise Forbidden("job parameters are posted to the job's /parameters, not to the job itself")
            if len(words) != 1:
                raise BadRequest(f"say one of {', '.join(self._changes)}, or ACTION=DELETE")
            return self._changes[words.pop()](self, service, job_id, said)

    def delete(self, service: str, job_id: str) -> Response:
        """DELETE of the job: 303 to the list (UWS-68)."""
        self._jobs.delete(self._current.caller(), service, job_id)
        return redirect(f"{self._current.addresses().jobs(service)}?LAST={_BACK_TO_LIST}")

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
            self._jobs.run(self._current.caller(), service, job_id)
        elif wanted == "ABORT":
            self._jobs.abort(self._current.caller(), service, job_id)
        else:
            raise BadRequest(f"PHASE={wanted[:40]!r} cannot be asked for; PHASE=RUN and PHASE=ABORT can")
        return self._current.to_job(service, job_id)

    def _set_duration(self, service: str, job_id: str, said: Said) -> Response:
        seconds = read_duration(said.need("EXECUTIONDURATION"))
        self._jobs.set_duration(self._current.caller(), service, job_id, seconds)
        return self._current.to_job(service, job_id)

    def _set_destruction(self, service: str, job_id: str, said: Said) -> Response:
        at = read_instant("DESTRUCTION", said.need("DESTRUCTION"))
        self._jobs.set_destruction(self._current.caller(), service, job_id, at)
        return self._current.to_job(service, job_id)

    _changes: ClassVar[dict[str, Callable[..., Response]]] = {
        "PHASE": _set_phase,
        "EXECUTIONDURATION": _set_duration,
        "DESTRUCTION": _set_destruction,
    }

    # -- results -------------------------------------------------------------------------------------

    def results(self, service: str, job_id: str) -> Response:
        """GET of the results list."""
        job = self._get(service, job_id)
        return self._current.document(job, render_xml.results_document, render_json.results_document)

    # -- shared --------------------------------------------------------------------------------------

    def _get(self, service: str, job_id: str) -> Job:
        return self._jobs.get(self._current.caller(), service, job_id)


def _iso(instant: Instant | None) -> str:
    return "" if instant is None else to_iso(instant)
