"""``/agent/v1``: JSON in, JSON out, for the agents beside the jobs. What they may do: `service.door`."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uws_server.domain.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    Refused,
    TooLarge,
    Unauthenticated,
    WrongType,
)
from uws_server.service.door import Door, Wanted
from uws_server.web.errors import STATUS, refusal
from uws_server.web.parameters import whole
from uws_server.web.parts import Parts

_MANIFEST_BYTES = 16 * 1024**2  # a thousand results and more
_MESSAGE_BYTES = 1024**2
_FENCED = {"UWS-Fenced": "attempt"}
"""Tells our own 401, 403 and 404 from a proxy's, by which an agent must not give up its attempt."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WantedObject(_Message):
    """One object that an agent asks a link for. ``size`` in bytes."""

    method: Literal["GET", "PUT"]
    name: str = Field(max_length=1024)
    size: int = Field(default=0, ge=0)


class WantedLinks(_Message):
    """What `POST /links` takes."""

    objects: list[WantedObject] = Field(max_length=1000)


class ProgressMade(_Message):
    """What `POST /progress` takes."""

    done: int = Field(ge=0)
    of: int = Field(ge=0)


_M = TypeVar("_M", bound=_Message)


def agent_blueprint(parts: Parts) -> Blueprint:
    """The agents' door."""
    blueprint = Blueprint("agent", __name__, url_prefix="/agent/v1")
    door = parts.door

    @blueprint.errorhandler(Unauthenticated)
    @blueprint.errorhandler(Forbidden)
    @blueprint.errorhandler(NotFound)
    def fenced(error: Refused) -> Response:
        return refusal(STATUS[type(error)], str(error), _FENCED)

    @blueprint.post("/links")
    def links() -> Response:
        token = _token(door)
        wanted = _read(WantedLinks, _body(parts, _MESSAGE_BYTES))
        given = door.links(token, [Wanted(one.method, one.name, one.size) for one in wanted.objects])
        return _json({"links": [{"method": link.method, "url": link.url, "headers": {}} for link in given]})

    @blueprint.post("/progress")
    def progress() -> Response:
        token = _token(door)
        made = _read(ProgressMade, _body(parts, _MESSAGE_BYTES))
        door.progress(token, made.done, made.of)
        return Response(status=204)

    @blueprint.post("/manifest")
    def manifest() -> Response:
        token = _token(door)
        try:
            document = json.loads(_body(parts, _MANIFEST_BYTES))
        except (ValueError, RecursionError):
            raise BadRequest("the manifest is not JSON") from None
        if not isinstance(document, dict):
            raise BadRequest("the manifest is no JSON object")
        door.hand_in(token, document)
        return Response(status=204)

    return blueprint


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


def _read(model: type[_M], body: bytes) -> _M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        kind = TooLarge if first["type"] == "too_long" else BadRequest
        raise kind(f"{place or 'the message'}: {first['msg'].lower()}") from None


def _json(document: Any) -> Response:
    return Response(json.dumps(document), 200, content_type="application/json")
