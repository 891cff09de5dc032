"""One typed parameter of a template: what it accepts, and a client's text read as it.

A refusal is one sentence that names the parameter, shows what was given, and says what is accepted.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from job_templates.amounts import read_size, write_size
from job_templates.client_text import read_json, shown
from uws_server.domain.errors import BadRequest
from uws_server.domain.instants import from_iso, to_iso

CONTROL_WORDS = frozenset(
    [
        "PHASE",
        "RUNID",
        "EXECUTIONDURATION",
        "DESTRUCTION",
        "ACTION",
        "WAIT",
        "AFTER",
        "LAST",
        "REQUEST",
        "RESPONSEFORMAT",
        "MAXREC",
        "UPLOAD",
    ]
)
"""What UWS and DALI take for themselves, in any case of letters (UWS-54)."""

RESOURCE_WORDS = ("CPU", "MEMORY", "DISK", "GPU")
"""What every template accepts up to its ceilings."""

RUNNER_WORDS = frozenset({"inputs", "outputs", "parameters", "python"})

MAX_TIMES = 1000
"""How often a parameter that may be repeated may stand."""

Kind = Literal[
    "string",
    "integer",
    "number",
    "boolean",
    "choice",
    "instant",
    "json",
    "object",
    "file",
    "arguments",
    "environment",
]

_INTEGER = re.compile(r"[-+]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NOT_IN_URL = re.compile('[\x00-\x20\x7f-\x9f\ud800-\udfff<>"\\\\^`{|}]')


class Strict(BaseModel):
    """What is read from a template: unknown keys refused, never changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _amount(value: object, read: Any) -> object:
    if isinstance(value, bool):
        return value
    return read(str(value)) if isinstance(value, str | int | float) else value


Size = Annotated[int, BeforeValidator(lambda value: _amount(value, read_size))]
"""Bytes, or text such as ``4GiB``."""


class ParameterType(Strict):
    """One parameter as a template declares it.

    ``min`` and ``max`` bound numbers and instants. ``choices`` belong to type ``choice``; ``pattern``
    must match the whole of a string. ``means`` says what a choice puts into a command, where that is not
    the choice itself. For a file, ``max_bytes`` is its size limit, ``schemes`` are the
    URLs it may come from, and ``media_types`` tell a person which files make sense.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    type: Kind
    description: str = ""
    unit: str | None = None
    ucd: str | None = None
    default: Any = None
    required: bool = False
    min: int | float | str | None = None
    max: int | float | str | None = None
    choices: tuple[str, ...] = ()
    means: dict[str, str] = {}
    multiple: bool = False
    pattern: str | None = None
    max_length: int = Field(default=65536, ge=1)
    max_bytes: Size = 10 * 1024**3
    media_types: tuple[str, ...] = ()
    schemes: tuple[Literal["http", "https", "s3", "file"], ...] = ("http", "https", "file")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> ParameterType:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError(f"parameter {self.name}: 'choices' and type choice belong together")
        if not set(self.means) <= set(self.choices):
            raise ValueError(f"parameter {self.name}: 'means' has a key that is no choice")
        if self.required and self.default is not None:
            raise ValueError(f"parameter {self.name} is required and has a default; it cannot be both")
        if self.pattern is not None and self.type != "string":
            raise ValueError(f"parameter {self.name}: 'pattern' is for strings")
        if self.type in ("arguments", "environment") and self.multiple:
            raise ValueError(f"parameter {self.name}: type {self.type} may be repeated anyway")
        low, high = self.bounds
        if low is not None and high is not None and low > high:
            raise ValueError(f"parameter {self.name}: 'min' is above 'max'")
        return self

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """``min`` and ``max`` as numbers; instants in milliseconds since 1970.

        :raises ValueError: they do not suit the type.
        """
        if self.type in ("integer", "number"):
            if isinstance(self.min, str) or isinstance(self.max, str):
                raise ValueError(f"parameter {self.name}: 'min' and 'max' are to be numbers")
            return self.min, self.max
        if self.type == "instant":
            low, high = (None if bound is None else from_iso(str(bound)) for bound in (self.min, self.max))
            return low, high
        if self.min is not None or self.max is not None:
            raise ValueError(f"parameter {self.name}: 'min' and 'max' are for numbers and instants")
        return None, None

    @property
    def repeatable(self) -> bool:
        """Whether the parameter may stand several times in a job (DALI-07)."""
        return self.multiple or self.type in ("arguments", "environment")

    def accepts(self) -> str:
        """What the parameter takes, in words that end the sentence "it accepts …"."""
        low, high = self.min, self.max
        span = (
            f" from {low} to {high}"
            if low is not None and high is not None
            else f" from {low} on"
            if low is not None
            else f" up to {high}"
            if high is not None
            else ""
        )
        unit = f" ({self.unit})" if self.unit else ""
        match self.type:
            case "string":
                words = f"text of at most {self.max_length} characters"
                return words + (f" that matches {self.pattern}" if self.pattern else "")
            case "integer":
                return f"a whole number{span}{unit}"
            case "number":
                return f"a number{span}{unit}"
            case "boolean":
                return "true or false"
            case "choice":
                return "one of " + ", ".join(self.choices)
            case "instant":
                return f"an instant in UTC such as 2026-11-03T09:00:01Z{span}"
            case "json":
                return "a JSON value"
            case "object":
                return "a JSON object"
            case "file":
                *most, last = (f"{scheme}:" for scheme in self.schemes)
                urls = f"{', '.join(most)} or {last}" if most else last
                return f"an uploaded file or the {urls} URL of one, of at most {write_size(self.max_bytes)}"
            case "arguments":
                return "one argument each time it stands, or all of them as a JSON list of strings"
            case "environment":
                return "NAME=VALUE each time it stands, or all of them as a JSON object of strings"

    def refusal(self, given: str) -> BadRequest:
        """The refusal of a value."""
        return BadRequest(f"parameter {self.name} is {shown(given)}; it accepts {self.accepts()}")

    def read(self, text: str) -> Any:
        """One value, typed as JSON has it. Not for files, arguments and environment.

        :raises BadRequest: the text is nothing that the parameter accepts.
        """
        try:
            value = _READERS[self.type](self, text)
        except (ValueError, RecursionError):
            raise self.refusal(text) from None
        low, high = self.bounds
        number = from_iso(value) if self.type == "instant" else value
        if (low is not None and number < low) or (high is not None and number > high):
            raise self.refusal(text)
        return value

    def read_all(self, texts: list[str]) -> list[str] | dict[str, str]:
        """Arguments or environment, from every time that the parameter stands in a job.

        :raises BadRequest: a text is nothing that the parameter accepts.
        """
        arguments: list[str] = []
        environment: dict[str, str] = {}
        for text in texts:
            try:
                if self.type == "arguments":
                    arguments += _arguments(text)
                else:
                    environment |= _environment(text)
            except (ValueError, RecursionError):
                raise self.refusal(text) from None
        return arguments if self.type == "arguments" else environment

    def read_url(self, text: str) -> str:
        """The URL of a file, without credentials: a run spec holds none.

        :raises BadRequest: no URL that the parameter accepts.
        """
        try:
            url = urlsplit(text)
            port = url.port  # raises ValueError where it is none
        except ValueError:
            raise self.refusal(text) from None
        local = url.scheme == "file"
        if (
            len(text) > 8192
            or _NOT_IN_URL.search(text)
            or url.scheme not in self.schemes
            or (
                url.netloc not in ("", "localhost") or not url.path.startswith("/")
                if local
                else not url.hostname
            )
            or port == 0
        ):
            raise self.refusal(text)
        if "@" in url.netloc:
            raise BadRequest(
                f"parameter {self.name} has a user name or password in its URL; jobs are given no credentials"
            )
        return text


def resource_word(name: str) -> str:
    """``CPU`` for a parameter name that is that resource word in any case, '' for another name."""
    return name.upper() if name.isascii() and name.upper() in RESOURCE_WORDS else ""


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
        if not isinstance(value, str) or not _VARIABLE.fullmatch(name) or name.startswith("UWS_"):
            raise ValueError("no entry of an environment, or one of the server's own")
        _text(value)
    return dict(entries)


def _text(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("a control character")
    return text


def _string(parameter: ParameterType, text: str) -> str:
    if len(text) > parameter.max_length:
        raise ValueError("too long")
    if parameter.pattern is not None and not re.fullmatch(parameter.pattern, text):
        raise ValueError("does not match")
    return _text(text)


def _integer(_: ParameterType, text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise ValueError("no whole number")
    return int(text)


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


def _choice(parameter: ParameterType, text: str) -> str:
    if text not in parameter.choices:
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
