"""What the YAML file of a job template says, and what can be wrong with it.

`Definition` holds the file's words, checked one by one and, by `Definition.problems`, against each other.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from job_templates.amounts import read_cores, read_count, read_duration, read_size
from job_templates.client_text import shown
from job_templates.input_files import stage
from job_templates.parameter_type import (
    CONTROL_WORDS,
    RESOURCE_WORDS,
    RUNNER_WORDS,
    ParameterType,
    Size,
    Strict,
)
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter

RESERVED_NAMES = frozenset(
    [
        "account",
        "admin",
        "agent",
        "api",
        "async",
        "auth",
        "availability",
        "capabilities",
        "docs",
        "examples",
        "favicon",
        "health",
        "jobs",
        "limits",
        "live",
        "login",
        "logout",
        "metrics",
        "oauth",
        "openapi",
        "portal",
        "ready",
        "robots",
        "schema",
        "search",
        "services",
        "sites",
        "static",
        "status",
        "storage",
        "sync",
        "tables",
        "templates",
        "token",
        "tokens",
        "ui",
        "usage",
        "user",
        "users",
        "uws",
        "version",
    ]
)
"""Paths that the server keeps for itself beside the services'."""

RESERVED_RESULTS = frozenset({"stdout", "stderr", "manifest"})

NOTEBOOK_PATH = "notebook.ipynb"
"""Where the notebook lies beneath the inputs directory."""

_VALUE = re.compile(r"\{value:([A-Za-z0-9_]+)\}")


def _limit(read: Callable[[str], int], unlimited: bool) -> BeforeValidator:
    def convert(value: object) -> object:
        if value == "unlimited" and unlimited:
            return 0
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return value
        try:
            return read(str(value))
        except ValueError as error:
            raise ValueError(f"{shown(str(value))} is not {error}") from None

    return BeforeValidator(convert)


class Span(Strict):
    """What a job gets unasked, and at most. No ``max`` means: never more than unasked."""

    default: int
    max: int = -1

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.default > self.ceiling:
            raise ValueError("'default' is above 'max'")
        return self

    @property
    def ceiling(self) -> int:
        """The most that a job can get."""
        return self.default if self.max == -1 else self.max


class Cores(Span):
    """CPU in thousandths of a core; cores in the file."""

    default: Annotated[int, _limit(read_cores, False)] = Field(default=1000, ge=1)
    max: Annotated[int, _limit(read_cores, False)] = -1


class Bytes(Span):
    """Memory or disk, in bytes."""

    default: Annotated[int, _limit(read_size, False)] = Field(ge=1024**2)
    max: Annotated[int, _limit(read_size, False)] = -1


class Count(Span):
    """GPUs."""

    default: Annotated[int, _limit(read_count, False)] = 0
    max: Annotated[int, _limit(read_count, False)] = -1


class Time(Span):
    """Execution duration in seconds; 0, or ``unlimited`` in the file, is no limit (UWS-15)."""

    default: Annotated[int, _limit(read_duration, True)] = 3600
    max: Annotated[int, _limit(read_duration, True)] = -1

    @model_validator(mode="after")
    def _ordered(self) -> Time:
        if self.ceiling and not 0 < self.default <= self.ceiling:
            raise ValueError("'default' is above 'max'")
        return self


class Retention(Span):
    """From creation to destruction, in seconds; ``max: unlimited`` is no limit, a default there is always."""

    default: Annotated[int, _limit(read_duration, False)] = Field(default=30 * 86400, ge=1)
    max: Annotated[int, _limit(read_duration, True)] = -1

    @model_validator(mode="after")
    def _ordered(self) -> Retention:
        if self.ceiling and self.default > self.ceiling:
            raise ValueError("'default' is above 'max'")
        return self


class ResourceLimits(Strict):
    """Defaults and ceilings."""

    cpu: Cores = Cores(default=1, max=4)
    memory: Bytes = Bytes(default=2 * 1024**3, max=8 * 1024**3)
    disk: Bytes = Bytes(default=10 * 1024**3, max=20 * 1024**3)
    gpu: Count = Count(default=0, max=0)
    time: Time = Time(default=3600, max=86400)
    retention: Retention = Retention(default=30 * 86400, max=365 * 86400)
    processes: int = Field(default=512, ge=1, le=32768)
    log: Size = 64 * 1024**2


class OutputType(Strict):
    """One pattern of files that become results; see `uws_server.domain.runspec.Output`."""

    id: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")
    glob: str = Field(min_length=1, max_length=512)
    media_type: str | None = Field(default=None, pattern=r"^[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)*$")
    required: bool = False
    description: str = ""

    @model_validator(mode="after")
    def _beneath(self) -> OutputType:
        if self.glob.startswith("/") or ".." in self.glob.split("/"):
            raise ValueError(f"the glob {self.glob!r} leaves the outputs directory")
        if self.id in RESERVED_RESULTS:
            raise ValueError(f"the result id {self.id!r} is the server's own")
        return self


class Example(Strict):
    """A job that somebody can try; the values are written as a client sends them."""

    title: str
    parameters: dict[str, str] = Field(default_factory=dict)


NOTEBOOK_OUTPUTS = (
    OutputType(
        id="notebook",
        glob="executed.ipynb",
        media_type="application/x-ipynb+json",
        description="The executed notebook, also after a failure",
    ),
    OutputType(id="html", glob="executed.html", media_type="text/html", description="The notebook as a page"),
)
"""What every notebook service gives, before the outputs of its template."""


class Definition(Strict):
    """A template as its YAML file says it.

    ``notebook`` names a file beside the YAML file, or ``{value:NAME}``, a file parameter; ``image`` and the
    items of ``command`` may hold ``{value:NAME}`` too. ``result`` is the id that ``/sync`` leads to.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    title: str = Field(min_length=1, max_length=200)
    description: str = ""
    kind: Literal["notebook", "container", "command"]
    notebook: str | None = None
    image: str | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    parameters: tuple[ParameterType, ...] = ()
    resources: ResourceLimits = ResourceLimits()
    outputs: tuple[OutputType, ...] = ()
    result: str = ""
    examples: tuple[Example, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Definition:
        needs = {"notebook": "notebook", "container": "image", "command": "command"}[self.kind]
        if not getattr(self, needs):
            raise ValueError(f"a template of kind {self.kind} needs {needs!r}")
        if self.kind == "notebook" and (self.image or self.command):
            raise ValueError("a notebook has neither 'image' nor 'command'; for an image use kind container")
        if self.kind == "command" and self.image:
            raise ValueError("'image' is for kind container")
        if self.kind != "notebook" and self.notebook:
            raise ValueError("'notebook' is for kind notebook")
        return self

    def find(self, name: str) -> ParameterType | None:
        """The parameter of this name, whatever the case (DALI-06). ``input.2`` is one more ``input``."""
        wanted = name.lower() if name.isascii() else ""
        for parameter in self.parameters:
            known = parameter.name.lower()
            if wanted == known or (
                parameter.multiple
                and parameter.type == "file"
                and wanted.startswith(known + ".")
                and re.fullmatch(r"[1-9][0-9]{0,3}", wanted[len(known) + 1 :], re.ASCII)
            ):
                return parameter
        return None

    @property
    def notebook_parameter(self) -> ParameterType | None:
        """The file parameter that brings the notebook, for a service that runs any notebook."""
        match = _VALUE.fullmatch(self.notebook or "")
        return self.find(match[1]) if match else None

    @property
    def all_outputs(self) -> tuple[OutputType, ...]:
        """The outputs, from the special to the general."""
        return (NOTEBOOK_OUTPUTS if self.kind == "notebook" else ()) + self.outputs

    @property
    def sync_result(self) -> str:
        """The result id that ``/sync`` leads to: ``result`` as given, else the first output's."""
        return self.result or next((output.id for output in self.all_outputs), "")

    def problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        """What is wrong although every part by itself is right: path within the file, and a sentence."""
        return [
            *self._name_problems(),
            *self._use_problems(),
            *self._output_problems(),
            *self._default_problems(),
        ]

    def _name_problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if self.name in RESERVED_NAMES:
            found.append(
                (("name",), f"a service cannot be named {self.name!r}: the server uses that path itself")
            )
        seen: dict[str, str] = {}
        for number, parameter in enumerate(self.parameters):
            path = ("parameters", number, "name")
            folded = parameter.name.lower()
            if folded in seen:
                found.append(
                    (
                        path,
                        f"parameters {seen[folded]!r} and {parameter.name!r} differ in case only (DALI-06)",
                    )
                )
            seen.setdefault(folded, parameter.name)
            if parameter.name.upper() in CONTROL_WORDS:
                found.append((path, f"parameter {parameter.name!r} is a control word of UWS or DALI"))
            if parameter.name.upper() in RESOURCE_WORDS:
                found.append(
                    (path, f"parameter {parameter.name!r} is a resource word that every service has")
                )
        return found

    def _use_problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        places: list[tuple[tuple[str | int, ...], str]] = [
            (("command", number), item) for number, item in enumerate(self.command)
        ]
        places += [((key,), text) for key in ("notebook", "image") if (text := getattr(self, key))]
        for path, text in places:
            for name in _VALUE.findall(text):
                if self.find(name) is None:
                    near = nearest(name, [parameter.name for parameter in self.parameters])
                    found.append((path, f"{{value:{name}}} names no parameter{near}"))
        bringer = self.notebook_parameter
        if bringer and (bringer.type != "file" or bringer.multiple or not bringer.required):
            found.append((("notebook",), f"parameter {bringer.name!r} is not one required file"))
        for path, text in [
            *places,
            *((("environment", key), text) for key, text in self.environment.items()),
        ]:
            for word in re.findall(r"\{(\w+)\}", text):
                if word not in RUNNER_WORDS:
                    near = nearest(word, sorted(RUNNER_WORDS))
                    found.append((path, f"{{{word}}} is nothing that a runner replaces{near}"))
        return found

    def _output_problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        ids = [output.id for output in self.all_outputs]
        for number, output in enumerate(self.outputs):
            if ids.count(output.id) > 1:
                found.append((("outputs", number, "id"), f"the result id {output.id!r} is there twice"))
        if len(ids) == 1 and ids != ["result"]:
            found.append((("outputs", 0, "id"), "the only output of a service has the id 'result'"))
        if self.result and self.result not in ids:
            found.append((("result",), f"{self.result!r} is no output{nearest(self.result, ids)}"))
        return found

    def _default_problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        for number, parameter in enumerate(self.parameters):
            if parameter.default is None:
                continue
            try:
                default_value(parameter)
            except BadRequest as refused:
                found.append((("parameters", number, "default"), str(refused)))
        return found


def default_value(kind: ParameterType) -> Any:
    """A parameter's default, typed as a client's value would be.

    :raises BadRequest: the default is nothing that the parameter accepts.
    """
    defaults = kind.default if kind.multiple and isinstance(kind.default, list) else [kind.default]
    if kind.type == "file":
        typed = [stage(kind, Parameter(kind.name, _as_text(default))).value for default in defaults]
    elif kind.type in ("arguments", "environment"):
        return kind.read_all([_as_text(kind.default)])
    else:
        typed = [kind.read(_as_text(default)) for default in defaults]
    return typed if kind.multiple else typed[0]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the known one that looks most like it, if any does."""
    near = difflib.get_close_matches(name[:64].casefold(), [one.casefold() for one in known], 1, 0.6)
    for one in known:
        if near and one.casefold() == near[0]:
            return f"; did you mean {one}?"
    return ""
