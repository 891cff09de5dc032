"""A client's text read as the parameter that it is for.

A refusal is one sentence that names the parameter, shows what was given, and says what is accepted.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

from job_templates.client_text import read_json, shown
from job_templates.parameter_type import ParameterType
from uws_server.domain.errors import BadRequest
from uws_server.domain.instants import from_iso, to_iso

_INTEGER = re.compile(r"[-+]?\d{1,19}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NOT_IN_URL = re.compile('[\x00-\x20\x7f-\x9f\ud800-\udfff<>"\\\\^`{|}]')


def _refusal(kind: ParameterType, given: str) -> BadRequest:
    """The refusal of a value."""
    return BadRequest(f"parameter {kind.name} is {shown(given)}; it accepts {kind.accepts()}")


def read(kind: ParameterType, text: str) -> Any:
    """One value, typed as JSON has it. Not for files, arguments and environment.

    :raises BadRequest: the text is nothing that the parameter accepts.
    """
    try:
        value = _READERS[kind.type](kind, text)
    except (ValueError, RecursionError):
        raise _refusal(kind, text) from None
    low, high = kind.bounds
    number = from_iso(value) if kind.type == "instant" else value
    if (low is not None and number < low) or (high is not None and number > high):
        raise _refusal(kind, text)
    return value


def read_all(kind: ParameterType, texts: list[str]) -> list[str] | dict[str, str]:
    """Arguments or environment, from every time that the parameter stands in a job.

    :raises BadRequest: a text is nothing that the parameter accepts.
    """
    arguments: list[str] = []
    environment: dict[str, str] = {}
    for text in texts:
        try:
            if kind.type == "arguments":
                arguments += _arguments(text)
            else:
                environment |= _environment(text)
        except (ValueError, RecursionError):
            raise _refusal(kind, text) from None
    return arguments if kind.type == "arguments" else environment


def read_url(kind: ParameterType, text: str) -> str:
    """The URL of a file, without credentials: a run spec holds none.

    :raises BadRequest: no URL that the parameter accepts.
    """
    try:
        url = urlsplit(text)
        port = url.port  # raises ValueError where it is none
    except ValueError:
        raise _refusal(kind, text) from None
    local = url.scheme == "file"
    if (
        len(text) > 8192
        or _NOT_IN_URL.search(text)
        or url.scheme not in kind.schemes
        or (
            url.netloc not in ("", "localhost") or not url.path.startswith("/") if local else not url.hostname
        )
        or port == 0
    ):
        raise _refusal(kind, text)
    if "@" in url.netloc:
        raise BadRequest(
            f"parameter {kind.name} has a user name or password in its URL; jobs are given no credentials"
        )
    return text


def _arguments(text: str) -> list[str]:
    value: Any = [text]
    if text.lstrip().startswith("["):
        value = read_json(text)
    if not all(isinstance(item, str) for item in value):
        raise ValueError("not text")
    return [_text(item) for item in value]


def _environment(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        entries = read_json(text)
    else:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError("no =")
        entries = {name: value}
    for name, value in entries.items():
        if not isinstance(value, str) or not is_variable(name):
            raise ValueError("no entry of an environment, or one of the server's own")
        _text(value)
    return dict(entries)


def is_variable(name: str) -> bool:
    """Whether a template or a job may set the entry of the environment; ``UWS_`` is the server's."""
    return bool(_VARIABLE.fullmatch(name)) and not name.startswith("UWS_")


def _text(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("a control character")
    return text


def _string(kind: ParameterType, text: str) -> str:
    if len(text) > kind.max_length:
        raise ValueError("too long")
    if kind.pattern is not None and not re.fullmatch(kind.pattern, text):
        raise ValueError("does not match")
    return _text(text)


def _integer(_: ParameterType, text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise ValueError("no whole number")
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("more than 64 bits")
    return number


def _number(_: ParameterType, text: str) -> float:
    if len(text) > 400 or not _NUMBER.fullmatch(text.strip()):
        raise ValueError("no number")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("too large")
    return value


def _boolean(_: ParameterType, text: str) -> bool:
    if text.strip() not in _BOOLEANS:
        raise ValueError("neither true nor false")
    return _BOOLEANS[text.strip()]


def _choice(kind: ParameterType, text: str) -> str:
    if text not in kind.choices:
        raise ValueError("no choice")
    return text


def _instant(_: ParameterType, text: str) -> str:
    return to_iso(from_iso(text))


def _json(_: ParameterType, text: str) -> Any:
    return read_json(text)


def _object(_: ParameterType, text: str) -> dict[str, Any]:
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


_READERS: dict[str, Any] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "choice": _choice,
    "instant": _instant,
    "json": _json,
    "object": _object,
}
