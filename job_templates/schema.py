"""What the YAML file of a template may say: every key, its type and its meaning.

What can be wrong between the parts of a file that are right by themselves is in `cross_checks`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from job_templates.amounts import (
    read_cores,
    read_count,
    read_duration,
    read_size,
    write_cores,
    write_duration,
    write_size,
)
from job_templates.parameter_type import ParameterType, Size
from job_templates.reserved import RESULT_IDS
from job_templates.strict import Misfit, Strict, amount, matching

NOTEBOOK_PATH = "notebook.ipynb"
"""Where the notebook lies beneath the inputs directory."""

PLACE = re.compile(r"\{value:([A-Za-z0-9_]+)\}")
"""Where the value of a parameter goes, in a command item and the like."""


class Span(Strict):
    """What a job gets unasked, and at most. No ``max`` means: never more than unasked."""

    default: int
    max: int = -1

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.default > self.ceiling:
            raise Misfit("default", "'default' is above 'max'")
        return self

    @property
    def ceiling(self) -> int:
        """The most that a job can get."""
        return self.default if self.max == -1 else self.max


class Cores(Span):
    """CPU in thousandths of a core; cores in the file."""

    default: Annotated[int, amount(read_cores, write_cores, 1)] = 1000
    max: Annotated[int, amount(read_cores, write_cores, 1)] = -1


class Bytes(Span):
    """Memory or disk, in bytes."""

    default: Annotated[int, amount(read_size, write_size, 1024**2)]
    max: Annotated[int, amount(read_size, write_size, 1024**2)] = -1


class Count(Span):
    """GPUs."""

    default: Annotated[int, amount(read_count, str)] = 0
    max: Annotated[int, amount(read_count, str)] = -1


class Seconds(Span):
    """A time in seconds; 0, or ``unlimited`` in the file, is no limit (UWS-15)."""

    @model_validator(mode="after")
    def _ordered(self) -> Seconds:
        if self.ceiling and not 0 < self.default <= self.ceiling:
            raise Misfit("default", "'default' is above 'max'")
        return self


class Time(Seconds):
    """Execution duration."""

    default: Annotated[int, amount(read_duration, write_duration, unlimited=True)] = 3600
    max: Annotated[int, amount(read_duration, write_duration, unlimited=True)] = -1


class Retention(Seconds):
    """From creation to destruction; there always is a default."""

    default: Annotated[int, amount(read_duration, write_duration, 1)] = 30 * 86400
    max: Annotated[int, amount(read_duration, write_duration, unlimited=True)] = -1


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


_RESULT_ID = "result id: letters, digits and _.-, at most 64 in all"
_MEDIA_TYPE = r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)*"


class OutputType(Strict):
    """One pattern of files that become results; see `uws_server.domain.runspec.Output`."""

    id: Annotated[str, matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", _RESULT_ID)]
    glob: str = Field(min_length=1, max_length=512)
    media_type: Annotated[str | None, matching(_MEDIA_TYPE, "media type such as text/csv")] = None
    required: bool = False
    description: str = ""

    @model_validator(mode="after")
    def _beneath(self) -> OutputType:
        if self.glob.startswith("/") or ".." in self.glob.split("/"):
            raise Misfit("glob", f"the glob {self.glob!r} leaves the outputs directory")
        if self.id in RESULT_IDS:
            raise Misfit("id", f"the result id {self.id!r} is the server's own")
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


_SERVICE = "service name: a lower-case letter, then lower-case letters, digits and hyphens, at most 63 in all"


class Definition(Strict):
    """A template as its YAML file says it.

    ``notebook`` names a file beside the YAML file, or ``{value:NAME}``, a file parameter; ``image`` and the
    items of ``command`` may hold ``{value:NAME}`` too. ``result`` is the id that ``/sync`` leads to.
    """

    name: Annotated[str, matching(r"[a-z][a-z0-9-]{0,62}", _SERVICE)]
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
            raise Misfit("kind", f"a template of kind {self.kind} needs {needs!r}")
        for key in ("image", "command"):
            if self.kind == "notebook" and getattr(self, key):
                raise Misfit(key, f"{key!r} is not for kind notebook; for an image use kind container")
        if self.kind == "command" and self.image:
            raise Misfit("image", "'image' is for kind container")
        if self.kind != "notebook" and self.notebook:
            raise Misfit("notebook", "'notebook' is for kind notebook")
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
