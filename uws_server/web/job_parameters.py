"""The parameters of one job: read, added and replaced while it is PENDING."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from flask import Blueprint, Response, request

from uws_server.domain.errors import BadRequest, NotFound
from uws_server.domain.job import Parameter
from uws_server.service.uploads import Content
from uws_server.web import render_json, render_xml
from uws_server.web.answers import text
from uws_server.web.current import Current
from uws_server.web.incoming.body import chunks, whole
from uws_server.web.incoming.reading import reading
from uws_server.web.incoming.said import Said, check_name, media_type_of
from uws_server.web.incoming.wishes import described, json_parameters, may_repeat
from uws_server.web.incoming.words import CONTROL, read_run_id
from uws_server.web.parts import Parts
from uws_server.web.results import hostile

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,15}:\S{1,8192}")
_WITH_PARAMETERS = {"UPLOAD", "REQUEST", "RUNID"}  # words that DALI has among a job's parameters


def parameters_blueprint(parts: Parts, current: Current) -> Blueprint:
    """``/{service}/async/{id}/parameters``. Whether a job can be changed is asked before a body is read."""
    blueprint = Blueprint("parameters", __name__, url_prefix="/<service>/async/<job_id>/parameters")
    jobs = parts.jobs
    limits = jobs.limits

    @blueprint.route("", methods=["GET"], provide_automatic_options=False)
    def listed(service: str, job_id: str) -> Response:
        job = jobs.get(current.caller(), service, job_id)
        return current.document(job, render_xml.parameters_document, render_json.parameters_document)

    @blueprint.route("", methods=["POST"], provide_automatic_options=False)
    def post(service: str, job_id: str) -> Response:
        job = jobs.changeable(current.caller(), service, job_id)
        with reading(request, limits, parts.bounds, files=True) as said:
            parameters, uploads, run_id = _posted(
                said, may_repeat(parts.catalog.get(service)), limits.parameters
            )
            jobs.set_parameters(job, parameters, uploads, run_id)
        return current.to_job(service, job_id)

    @blueprint.route("/<path:name>", methods=["GET"], provide_automatic_options=False)
    def one(service: str, job_id: str, name: str) -> Response:
        job = jobs.get(current.caller(), service, job_id)
        found = [one for one in job.parameters if one.name == name] or [
            one for one in job.parameters if one.name.casefold() == name.casefold()
        ]
        if not found:
            raise NotFound(f"the job has no parameter {name[:80]!r}")
        upload = found[0].upload
        if upload is None:
            return text("\n".join(one.value for one in found))
        known = request.if_none_match.contains_weak(upload.sha256)
        content = () if known or request.method == "HEAD" else jobs.parameter_content(job, found[0])
        response = Response(content, 304 if known else 200, direct_passthrough=True)
        response.set_etag(upload.sha256)
        if not known:
            response.content_type = upload.media_type
            response.content_length = upload.size
        return hostile(response, upload.media_type, found[0].value)

    @blueprint.route("/<path:name>", methods=["PUT"], provide_automatic_options=False)
    def put(service: str, job_id: str, name: str) -> Response:
        """The body is the value; for a parameter that is a file, its content."""
        check_name(name, limits.name_chars)
        if name.upper() in CONTROL:
            raise BadRequest(f"{name} is a word of the protocol and no parameter of a job")
        job = jobs.changeable(current.caller(), service, job_id)
        kind = parts.catalog.get(service).find(name)
        if kind is not None and kind.type == "file":
            most = min(limits.upload_bytes, kind.max_bytes)
            parameter, uploads = _put_file(name, chunks(request, most, parts.bounds))
        else:
            parameter = Parameter(name, _decoded(whole(request, limits.value_bytes, parts.bounds)))
            uploads = {}
        jobs.set_parameters(job, (parameter,), uploads)
        return current.to_job(service, job_id)

    return blueprint


def _posted(
    said: Said, repeated: Callable[[str], bool], most: int
) -> tuple[tuple[Parameter, ...], dict[str, Content], str | None]:
    """Parameters, contents, and a run id where one was given."""
    uploads: dict[str, Content] = {}
    run_id = None
    if said.document is not None:
        parameters = json_parameters(said.document, repeated, most)
    else:
        parameters, uploads = described(said)
        run_id = read_run_id(said.one("RUNID"))
        words = [name for name, _ in said.pairs if name.upper() in CONTROL - _WITH_PARAMETERS]
        if words:
            raise BadRequest(f"{words[0]} is a word of the protocol and no parameter of a job")
    if not parameters and run_id is None:
        raise BadRequest("no parameter was sent")
    return parameters, uploads, run_id


def _put_file(name: str, pieces: Iterator[bytes]) -> tuple[Parameter, dict[str, Content]]:
    """The parameter that a body is for: its URL where it is nothing but that, else its content."""
    first = next(pieces, b"")
    url = _as_url(first, request.content_length)
    if url is not None:
        return Parameter(name, url), {}
    said: str = request.environ.get("CONTENT_TYPE", "")
    content = Content(_again(first, pieces), media_type_of(said.partition(";")[0].strip()))
    return Parameter(name, name), {name: content}


def _as_url(first: bytes, length: int | None) -> str | None:
    """The URL that a body for a file parameter consists of, if it is one."""
    if length is not None and length > len(first):
        return None
    value = first.decode(errors="replace").strip()
    return value if _URL.fullmatch(value) else None


def _again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadRequest("the value is not UTF-8 text") from None
