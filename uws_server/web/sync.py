"""``/{service}/sync``: a job that is started at once, and redirects that lead to its result (DALI-05)."""

from __future__ import annotations

from flask import Blueprint, Response, request

from uws_server.domain.errors import BadRequest, NotFound
from uws_server.domain.job import Job
from uws_server.domain.phase import ACTIVE, Phase
from uws_server.service.results import listed
from uws_server.web.answers import redirect, text
from uws_server.web.current import Current
from uws_server.web.errors import refusal
from uws_server.web.job_list import made
from uws_server.web.parts import Parts

_HOPS = 8  # some clients follow ten redirects and no more


def sync_blueprint(parts: Parts, current: Current) -> Blueprint:
    """The synchronous side of every service."""
    blueprint = Blueprint("sync", __name__, url_prefix="/<service>/sync")

    @blueprint.route("", methods=["GET", "POST"], provide_automatic_options=False)
    def start(service: str) -> Response:
        if request.method == "HEAD":
            parts.catalog.get(service)
            return text("")  # asking about the address starts nothing
        job = made(parts, current, service, run=True)
        return redirect(f"{current.addresses().service(service)}/sync/{job.id}")

    @blueprint.route("/<job_id>", methods=["GET"], provide_automatic_options=False)
    def follow(service: str, job_id: str) -> Response:
        hops = _hops(request.args.get("HOP", "0"))
        seconds = 0.0 if request.method == "HEAD" else parts.bounds.wait_seconds
        job = parts.jobs.wait(current.caller(), service, job_id, seconds)
        addresses = current.addresses()
        if job.phase is Phase.COMPLETED:
            return redirect(addresses.result(service, job.id, _main(job, parts)))
        if job.phase not in ACTIVE:
            return _failure(job, addresses.job(service, job.id))
        if job.phase is not Phase.PENDING and hops < _HOPS:
            return redirect(f"{addresses.service(service)}/sync/{job.id}?HOP={hops + 1}")
        return refusal(
            504,
            f"the job is {job.phase} and takes longer than a request can wait; follow it at "
            f"{addresses.job(service, job.id)}",
        )

    return blueprint


def _hops(text_: str) -> int:
    if not text_.isascii() or not text_.isdigit() or len(text_) > 3:
        raise BadRequest("HOP is no number of redirects")
    return int(text_)


def _main(job: Job, parts: Parts) -> str:
    """The result that a synchronous client gets: the template's, else ``result``, else the first."""
    ids = [result.id for result in listed(job)]
    for wanted in (parts.catalog.get(job.service).sync_result, "result"):
        if wanted in ids:
            return wanted
    if not ids:
        raise NotFound("the job has no result")
    return ids[0]


def _failure(job: Job, address: str) -> Response:
    """An error document (DALI-13): the client's fault unless the same job may work another time."""
    if job.error is not None:
        if job.error.transient:
            return refusal(503, job.error.message, {"Retry-After": "30"})
        return refusal(400, job.error.message)
    if job.phase.final:
        reason = f": {job.reason}" if job.reason else ""
        return refusal(409, f"the job is {job.phase}{reason}")
    return refusal(503, f"the job is {job.phase}; follow it at {address}", {"Retry-After": "30"})
