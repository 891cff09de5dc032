"""What the YAML file of a template may say: every key, its type and its meaning.

What can be wrong between the parts of a file that are right by themselves is in `cross_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from job_templates.amounts import read_cores, read_count, read_duration, read_size
from job_templates.client_text import shown
from job_templates.parameter_type import ParameterType, Size, Strict
from job_templates.reserved import RESULT_IDS

NOTEBOOK_PATH = "notebook.ipynb"
"""Where the notebook lies beneath the inputs directory."""

PLACE = re.compile(r"\{value:([A-Za-z0-9_]+)\}")
"""Where the value of a parameter goes, in a command item and the like."""


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
        if self.id in RESULT_IDS:
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
        match = PLACE.fullmatch(self.notebook or "")
        return self.find(match[1]) if match else None

    @property
    def all_outputs(self) -> tuple[OutputType, ...]:
        """The outputs, from the special to the general."""
        return (NOTEBOOK_OUTPUTS if self.kind == "notebook" else ()) + self.outputs

    @property
    def sync_result(self) -> str:
        """The result id that ``/sync`` leads to: ``result`` as given, else the first output's."""
        return self.result or next((output.id for output in self.all_outputs), "")
