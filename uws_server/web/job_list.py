"""The job lists of all services, and the jobs made there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from uws_server.domain.errors import BadRequest, Unavailable
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Job
from uws_server.web import render_json, render_xml
from uws_server.web.addresses import Addresses
from uws_server.web.answers import document
from uws_server.web.current import JSON, XML, Current
from uws_server.web.incoming.reading import reading
from uws_server.web.incoming.said import Said
from uws_server.web.incoming.urlencoded import query_pairs
from uws_server.web.incoming.wishes import may_repeat, wish
from uws_server.web.incoming.words import Filters, read_filters
from uws_server.web.parts import Parts

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_PAGE = 100  # jobs on a page of a JSON list, unless LAST says more or fewer


def job_list_blueprint(parts: Parts, current: Current) -> Blueprint:
    """``/{service}/async``."""
    blueprint = Blueprint("jobs", __name__, url_prefix="/<service>/async")
    limits = parts.jobs.limits

    @blueprint.route("", methods=["GET"], provide_automatic_options=False)
    def listed(service: str) -> Response:
        filters = read_filters(Said(query_pairs(request.environ, limits.parameters)))
        as_json = current.wants_json()
        last = filters.last or (_PAGE if as_json else None)
        jobs = parts.jobs.select(
            current.caller(),
            service,
            phases=filters.phases,
            after=filters.after,
            last=last,
            before=filters.cursor,
        )
        addresses = current.addresses()
        if not as_json:
            return document(render_xml.job_list(service, jobs, addresses), XML)
        size = min(last or _PAGE, limits.list_jobs)
        following = _next_page(addresses, service, filters, jobs[-1]) if len(jobs) >= size else None
        return document(render_json.job_list(service, jobs, addresses, following), JSON)

    @blueprint.route("", methods=["POST"], provide_automatic_options=False)
    def create(service: str) -> Response:
        return current.to_job(service, made(parts, current, service).id)  # UWS-53

    return blueprint


def made(parts: Parts, current: Current, service: str, run: bool = False) -> Job:
    """The job that the current request describes; refused before its body is read where that says nothing."""
    if parts.draining():
        raise Unavailable("the server is about to stop and takes no new jobs", retry_after=30)
    template = parts.catalog.get(service)
    caller = current.caller()
    key = _idempotency_key()
    with reading(request, parts.jobs.limits, parts.bounds, files=True) as said:
        wanted = wish(said, may_repeat(template), parts.jobs.limits.parameters)
        wanted = replace(wanted, run=wanted.run or run, idempotency_key=key)
        return parts.jobs.create(caller, service, wanted)


def _next_page(addresses: Addresses, service: str, filters: Filters, last: Job) -> str:
    query: list[tuple[str, Any]] = [("PHASE", phase.value) for phase in filters.phases]
    if filters.after is not None:
        query.append(("AFTER", to_iso(filters.after)))
    if filters.last is not None:
        query.append(("LAST", filters.last))
    query.append(("CURSOR", f"{last.created}-{last.id}"))
    return f"{addresses.jobs(service)}?{urlencode(query)}"


def _idempotency_key() -> str:
    key: str = request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if key and _KEY.fullmatch(key) is None:
        raise BadRequest("an Idempotency-Key has from 1 to 255 visible ASCII characters")
    return key
