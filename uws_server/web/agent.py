"""``/agent/v1``: JSON in, JSON out, for the agents beside the jobs. What they may do: `service.door`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from flask import Blueprint, Response, request
from pydantic import Field, TypeAdapter, ValidationError

from uws_server.domain.errors import (
    BadRequest,
    Refused,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WrongType,
)
from uws_server.domain.wire import (
    BEGIN,
    COMPLETE,
    LINKS,
    MANIFEST,
    MANIFEST_BYTES,
    MESSAGE_BYTES,
    OWN_WORD,
    PARTS,
    PATH,
    PROGRESS,
    STARTED,
    Wanted,
    WantedParts,
)
from uws_server.service.door import Door
from uws_server.web.errors import STATUS, refusal
from uws_server.web.incoming.body import whole
from uws_server.web.parts import Parts


@dataclass(frozen=True, slots=True)
class _WantedLinks:
    objects: list[Wanted]


@dataclass(frozen=True, slots=True)
class _Place:
    place: Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class _Start:
    at: int


@dataclass(frozen=True, slots=True)
class _Progress:
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class _WantedParts:
    name: str
    size: int
    upload: Annotated[str, Field(max_length=1024)] = ""


_M = TypeVar("_M")
_WANTED_LINKS = TypeAdapter(_WantedLinks)
_WANTED_PARTS = TypeAdapter(_WantedParts)
_PLACE = TypeAdapter(_Place)
_START = TypeAdapter(_Start)
_PROGRESS = TypeAdapter(_Progress)


def agent_blueprint(parts: Parts) -> Blueprint:
    """The agents' door."""
    blueprint = Blueprint("agent", __name__, url_prefix=PATH)
    door = parts.door

    for kind in STATUS.keys() - {Unavailable}:  # which has headers of its own, and passes
        blueprint.register_error_handler(kind, _own_word)

    @blueprint.post(f"/{BEGIN}")
    def begin() -> Response:
        token = _token(door)
        asked = _read(_PLACE, _body(parts, MESSAGE_BYTES))
        return _json({"spec": door.begin(token, asked.place).to_json()})

    @blueprint.post(f"/{STARTED}")
    def started() -> Response:
        token = _token(door)
        door.started(token, _read(_START, _body(parts, MESSAGE_BYTES)).at)
        return Response(status=204)

    @blueprint.post(f"/{LINKS}")
    def links() -> Response:
        token = _token(door)
        wanted = _read(_WANTED_LINKS, _body(parts, MESSAGE_BYTES))
        given = door.links(token, wanted.objects)
        return _json({"links": [asdict(link) for link in given]})

    @blueprint.post(f"/{PARTS}")
    def in_parts() -> Response:
        token = _token(door)
        return _json(asdict(door.parts(token, _wanted_parts(_body(parts, MESSAGE_BYTES)))))

    @blueprint.post(f"/{COMPLETE}")
    def complete() -> Response:
        token = _token(door)
        door.complete(token, _wanted_parts(_body(parts, MESSAGE_BYTES)))
        return Response(status=204)

    @blueprint.post(f"/{PROGRESS}")
    def progress() -> Response:
        token = _token(door)
        made = _read(_PROGRESS, _body(parts, MESSAGE_BYTES))
        door.progress(token, made.done, made.of)
        return Response(status=204)

    @blueprint.post(f"/{MANIFEST}")
    def manifest() -> Response:
        token = _token(door)
        try:
            document = json.loads(_body(parts, MANIFEST_BYTES))
        except (ValueError, RecursionError):
            raise BadRequest("the manifest is not JSON") from None
        if not isinstance(document, dict):
            raise BadRequest("the manifest is no JSON object")
        door.hand_in(token, document)
        return Response(status=204)

    return blueprint


def _own_word(error: Refused) -> Response:
    return refusal(STATUS[type(error)], str(error), dict([OWN_WORD]))


def _token(door: Door) -> str:
    header: str = request.environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the token of an attempt is missing")
    token = token.strip()
    door.verify(token)  # before anything is read: manifests are large
    return token


def _body(parts: Parts, limit: int) -> bytes:
    if request.mimetype != "application/json":
        raise WrongType("agents send application/json")
    return whole(request, limit, parts.bounds)


def _read(message: TypeAdapter[_M], body: bytes) -> _M:
    try:
        return message.validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        kind = TooLarge if first["type"] == "too_long" else BadRequest
        raise kind(f"{place or 'the message'}: {first['msg'].lower()}") from None


def _wanted_parts(body: bytes) -> WantedParts:
    asked = _read(_WANTED_PARTS, body)
    return WantedParts(asked.name, asked.size, asked.upload)


def _json(document: Any) -> Response:
    return Response(json.dumps(document), 200, content_type="application/json")
