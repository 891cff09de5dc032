"""How a template declares one parameter, and what that accepts, in words. `reading` reads values as it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from job_templates.amounts import read_size, write_size
from job_templates.client_text import nearest, shown
from job_templates.strict import Misfit, Strict, amount, matching
from uws_server.domain.instants import from_iso

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


Size = Annotated[int, amount(read_size, write_size)]
"""Bytes, or text such as ``4GiB``."""


_NAME = "parameter name: a letter or _, then letters, digits and _, at most 64 in all"
_UCD = r"[A-Za-z][\w-]*([.:][A-Za-z][\w-]*)*(;[A-Za-z][\w-]*([.:][A-Za-z][\w-]*)*)*"


def _bound(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError("a bound is a number, for type instant an instant")
    return value


Bound = Annotated[int | float | str | None, BeforeValidator(_bound)]
"""The least or the most that a parameter accepts."""


class ParameterType(Strict):
    """One parameter as a template declares it.

    ``min`` and ``max`` bound numbers and instants. ``choices`` belong to type ``choice``; ``pattern``
    must match the whole of a string. ``means`` says what a choice puts into a command, where that is not
    the choice itself. For a file, ``max_bytes`` is its size limit, ``schemes`` are the
    URLs it may come from, and ``media_types`` tell a person which files make sense.
    """

    name: Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]{0,63}", _NAME)]
    type: Kind
    description: str = ""
    unit: str | None = None
    ucd: Annotated[str | None, matching(_UCD, "UCD such as phys.angSize or time.period;stat.min")] = None
    default: Any = None
    required: bool = False
    min: Bound = None
    max: Bound = None
    choices: tuple[str, ...] = ()
    means: dict[str, str] = Field(default_factory=dict)
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
        if self.type == "choice" and not self.choices:
            raise Misfit("type", "type choice needs 'choices', a list of words")
        if self.choices and self.type != "choice":
            raise Misfit("choices", f"'choices' is for type choice; this parameter is of type {self.type}")
        for choice in self.choices:
            if self.choices.count(choice) > 1:
                raise Misfit("choices", f"the choice {shown(choice)} stands there twice")
        for choice in self.means:
            if choice not in self.choices:
                raise Misfit("means", f"{shown(choice)} is no choice{nearest(choice, self.choices)}")
        self._check_default()
        if self.pattern is not None and self.type != "string":
            raise Misfit("pattern", f"'pattern' is for type string; this parameter is of type {self.type}")
        if self.type in ("arguments", "environment") and self.multiple:
            raise Misfit("multiple", f"type {self.type} may be repeated anyway; leave 'multiple' out")
        low, high = self._bound("min"), self._bound("max")
        if low is not None and high is not None and low > high:
            raise Misfit("min", f"'min' is above 'max', {self.max}")
        return self

    def _check_default(self) -> None:
        if self.required and self.default is not None:
            raise Misfit("default", "a parameter is required or has a default; it cannot be both")
        several = self.multiple or self.type in ("arguments", "json")
        if isinstance(self.default, list) and not several:
            raise Misfit("default", "a list is the default of a parameter with 'multiple: true'")
        if isinstance(self.default, dict) and self.type not in ("object", "environment", "json"):
            raise Misfit("default", f"a mapping is no default for type {self.type}")

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """``min`` and ``max`` as numbers; instants in milliseconds since 1970."""
        return self._bound("min"), self._bound("max")

    def _bound(self, key: Literal["min", "max"]) -> float | None:
        bound = self.min if key == "min" else self.max
        if bound is None:
            return None
        if self.type == "instant":
            try:
                return from_iso(str(bound))
            except ValueError as error:
                raise Misfit(key, str(error)) from None
        if self.type not in ("integer", "number"):
            raise Misfit(key, f"{key!r} is for numbers and instants; this parameter is of type {self.type}")
        if isinstance(bound, str):
            raise Misfit(key, f"{shown(bound)} is no number")
        return bound

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
                size = " of 64 bits" if low is None and high is None else ""
                return f"a whole number{size}{span}{unit}"
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
