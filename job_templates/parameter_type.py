"""How a template declares one parameter, and what that accepts, in words. `reading` reads values as it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from job_templates.amounts import read_size, write_size
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
