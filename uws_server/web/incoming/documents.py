"""JSON bodies: read whole, every name once, and stopped where they cost more than any job may bring."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from job_templates.client_text import members
from uws_server.domain.errors import BadRequest, TooLarge
from uws_server.service.jobs import RequestLimits
from uws_server.web.incoming.body import others_turn

_TURN = 20_000  # numbers and objects after which others get their turn


def document_of(body: bytes, limits: RequestLimits) -> dict[str, Any]:
    """The JSON object that a body is.

    :raises BadRequest: it is none, or a name stands twice in an object of it, however deep.
    :raises TooLarge: it holds more parameters, or more than their values, than a job may have.
    """
    # Each of these is a character of some value, or belongs to one of the members. Counted before anything
    # is made of them: sixteen megabytes of empty objects are a gigabyte in memory.
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > limits.value_bytes + 4 * limits.parameters + 100:
        raise _too_large(limits)
    pieces = _Pieces(limits)
    try:
        document = json.loads(
            body.decode(),
            object_pairs_hook=pieces.members,
            parse_int=pieces.number(int),
            parse_float=pieces.number(float),
            parse_constant=_no_number,
        )
        others_turn()
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # no infinity, no lone surrogate
    except RecursionError:
        raise BadRequest("the JSON body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise BadRequest("the JSON body is to be an object")
    inner = document.get("parameters")
    # Before anything is made of each of them: of some hundred thousand that takes seconds.
    if max(len(document), len(inner) if isinstance(inner, dict) else 0) > limits.parameters:
        raise TooLarge(f"more than {limits.parameters} parameters are not taken")
    return document


def scalar(value: object) -> str | None:
    """A member's value as a form would have it; None for a list, an object or null."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


class _Pieces:
    """Looks at what the parser finds while it goes on, so that it stops early and lets others go first.

    The parser alone would read a megabyte of numbers, or some ten megabytes more of them, in one go.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._characters = 0
        self._found = 0

    def members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._count()
        return members(pairs)

    def number(self, read: Callable[[str], Any]) -> Callable[[str], Any]:
        def number(text: str) -> Any:
            self._count()
            self._characters += len(text)
            if self._characters > self._limits.value_bytes:
                raise _too_large(self._limits)
            return read(text)

        return number

    def _count(self) -> None:
        self._found += 1
        if self._found % _TURN == 0:
            others_turn()


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _too_large(limits: RequestLimits) -> TooLarge:
    return TooLarge(f"the JSON body holds more than the {limits.value_bytes} characters that values may have")
