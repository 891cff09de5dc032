"""What a request that makes a job, or gives it parameters, wishes for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from job_templates.template import Template
from uws_server.domain.errors import BadRequest, TooLarge
from uws_server.domain.job import Parameter
from uws_server.service.jobs import Request
from uws_server.service.uploads import Content
from uws_server.web.incoming.references import INLINE, with_uploads
from uws_server.web.incoming.said import Said
from uws_server.web.incoming.words import CONTROL, read_duration, read_instant, read_run, read_run_id
from uws_server.web.models import read_new_job

_REFUSED = frozenset({"ACTION", "WAIT", "AFTER", "LAST"})  # mean something elsewhere, nothing at creation


def wish(said: Said, repeated: Callable[[str], bool], most: int) -> Request:
    """A job as a request describes it (UWS-54, UWS-56, UWS-57), before its template has looked at it.

    :param repeated: whether a parameter may stand several times, so that a JSON list means that.
    :param most: how many parameters a job may have.
    :raises BadRequest: it cannot be understood.
    :raises TooLarge: more parameters than ``most``.
    """
    if said.document is not None:
        return _wish_of_document(said, repeated, most)
    for word in _REFUSED:
        if said.one(word) is not None:
            raise BadRequest(f"{word} is a word of the protocol and means nothing when a job is created")
    parameters, uploads = described(said)
    duration, destruction = said.one("EXECUTIONDURATION"), said.one("DESTRUCTION")
    return Request(
        parameters,
        uploads,
        read_run(said.one("PHASE")),
        read_run_id(said.one("RUNID")) or "",
        None if duration is None else read_duration(duration),
        None if destruction is None else read_instant("DESTRUCTION", destruction),
    )


def described(said: Said) -> tuple[tuple[Parameter, ...], dict[str, Content]]:
    """The job parameters of a form, and the content of those that come inline.

    :raises BadRequest: an inline part is missing or named twice.
    """
    waiting = {sent.name: sent for sent in said.sent}
    used: set[str] = set()
    parameters: list[Parameter] = []
    uploads: dict[str, Content] = {}

    def inline(name: str, part: str) -> None:
        sent = waiting.get(part)
        if sent is None:
            raise BadRequest(f"parameter {name!r} refers to {INLINE}{part[:80]}, but no such part came along")
        if name in uploads:
            raise BadRequest(f"parameter {name!r} comes with two files")
        used.add(part)
        uploads[name] = Content(sent, sent.media_type, sent.size)
        parameters.append(Parameter(name, sent.filename or sent.name))

    for name, value in with_uploads(said.pairs):
        if value.startswith(INLINE):
            inline(name, value.removeprefix(INLINE))
        elif name.upper() not in CONTROL:
            parameters.append(Parameter(name, value))
    for sent in said.sent:
        if sent.name not in used:
            inline(sent.name, sent.name)
    return tuple(parameters), uploads


def _wish_of_document(said: Said, repeated: Callable[[str], bool], most: int) -> Request:
    if said.document is None:
        raise BadRequest("the body is no JSON object")
    new = read_new_job(said.document)
    # The query string may say PHASE=RUN as with any other body.
    phase = said.one("PHASE")
    return Request(
        _from_json(new.parameters, repeated, most),
        {},
        new.run or read_run(phase),
        read_run_id(new.run_id) or "",
        new.execution_duration,
        None if new.destruction is None else read_instant("destruction", new.destruction),
    )


def json_parameters(
    document: Mapping[str, Any], repeated: Callable[[str], bool], most: int
) -> tuple[Parameter, ...]:
    """The parameters of a JSON object posted to ``/parameters``: its members, or those of ``parameters``.

    :raises TooLarge: more than ``most``.
    """
    inner = document.get("parameters")
    members = inner if len(document) == 1 and isinstance(inner, dict) else document
    return _from_json(members, repeated, most)


def _from_json(
    members: Mapping[str, Any], repeated: Callable[[str], bool], most: int
) -> tuple[Parameter, ...]:
    found = tuple(islice(_each_from_json(members, repeated), most + 1))  # a list may hold a million
    if len(found) > most:
        raise TooLarge(f"more than {most} parameters are not taken")
    return found


def _each_from_json(members: Mapping[str, Any], repeated: Callable[[str], bool]) -> Iterator[Parameter]:
    for name, value in members.items():
        values: Iterable[Any] = value if isinstance(value, list) and repeated(name) else [value]
        for each in values:
            text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
            if text.startswith(INLINE):
                raise BadRequest(f"parameter {name!r} refers to a part, but a JSON body has none")
            yield Parameter(name, text)


def may_repeat(template: Template) -> Callable[[str], bool]:
    """Whether a parameter of a service may stand several times, so that a JSON list means that."""

    def repeated(name: str) -> bool:
        kind = template.find(name)
        return kind is not None and kind.multiple and kind.type != "json"

    return repeated
