"""A job template as the server uses it: read a job's parameters, clip its wishes, tell others about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from job_templates.amounts import read_cores, read_count, read_size, write_cores, write_size
from job_templates.client_text import shown
from job_templates.input_files import Staged
from job_templates.job_parameters import JobParameters, ReadUpload
from job_templates.notebook import NotebookParameter, read_parameters
from job_templates.notebook_values import PREFIX, is_own
from job_templates.parameter_type import ParameterType, resource_word
from job_templates.schema import Definition, Span
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter
from uws_server.domain.runspec import Resources

_Measure = tuple[Callable[[str], int], Callable[[int], str], str]
_CORES: _Measure = (read_cores, write_cores, "a number of cores")
_SIZE: _Measure = (read_size, write_size, "a size such as 4GiB")
_COUNT: _Measure = (read_count, str, "a whole number")


class Template(Definition):
    """A loaded template. ``digest`` is the SHA-256 of the YAML text and the notebook that ships with it."""

    digest: str
    content: str | None = Field(default=None, repr=False)

    # -- a job's parameters ------------------------------------------------------------------------

    def canonical(self, name: str) -> str:
        """A parameter's name as the template spells it; a name that it does not know, as it is."""
        if resource_word(name):
            return name.upper()
        parameter = self.find(name)
        if parameter is not None:
            return parameter.name + name[len(parameter.name) :]
        return PREFIX + name[2:] if self.notebook_parameter and is_own(name) else name

    def check(self, parameters: Sequence[Parameter], read_upload: ReadUpload | None = None) -> dict[str, Any]:
        """The typed values of a job's parameters, defaults included; files as ``{inputs}/…`` paths.

        An uploaded notebook is read with ``read_upload``, and its own parameters, typed by it, are the value
        of ``parameters``; without ``read_upload`` (or by URL) those given as ``p.NAME`` stay text.

        :raises BadRequest: names the parameter, what was given, and what is accepted.
        """
        self.resources_of(parameters)
        return JobParameters(self, parameters).values(read_upload)

    def staged(self, parameters: Sequence[Parameter]) -> tuple[Staged, ...]:
        """The files that a job brings.

        :raises BadRequest: as `check`.
        """
        return tuple(file for files in JobParameters(self, parameters).staged.values() for file in files)

    def texts(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        """The notebook's own parameters that came as text, ``N`` for ``p.N``."""
        return tuple(JobParameters(self, parameters).own)

    def resources_of(self, parameters: Sequence[Parameter]) -> Resources:
        """What a job may use: the template's defaults, or what its resource words ask for.

        :raises BadRequest: said twice, not understood, or above the ceiling.
        """
        asked: dict[str, str] = {}
        for parameter in parameters:
            word = resource_word(parameter.name)
            if word:
                if word in asked:
                    raise BadRequest(f"parameter {word} may stand only once")
                if parameter.upload is not None:
                    raise BadRequest(f"parameter {word} takes text, not a file")
                asked[word] = parameter.value
        limits = self.resources
        return Resources(
            cpu_milli=_asked(asked, "CPU", limits.cpu, _CORES, 1),
            memory_bytes=_asked(asked, "MEMORY", limits.memory, _SIZE, 1024**2),
            disk_bytes=_asked(asked, "DISK", limits.disk, _SIZE, 1024**2),
            gpu=_asked(asked, "GPU", limits.gpu, _COUNT, 0),
            processes=limits.processes,
        )

    def duration(self, wish: int | None = None) -> int:
        """The execution duration for a wish, in seconds, 0 = unlimited: at most the ceiling (UWS-66)."""
        span = self.resources.time
        if wish is None:
            return span.default
        return span.ceiling if span.ceiling and not 0 < wish <= span.ceiling else max(wish, 0)

    def retention(self, wish: int | None = None) -> int:
        """From creation to destruction, in seconds: a wish, at most the ceiling (UWS-66)."""
        span = self.resources.retention
        if wish is None:
            return span.default
        return min(wish, span.ceiling) if span.ceiling else wish

    def retention_ceiling(self) -> int:
        """The longest retention in seconds, 0 = unlimited."""
        return self.resources.retention.ceiling

    # -- telling others ----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The service for ``/services``: JSON values only; cores, bytes and seconds, 0 = unlimited."""
        data = self.model_dump(
            mode="json",
            include={"name", "title", "description", "kind", "resources", "examples", "digest"},
        )
        for span in data["resources"].values():
            if isinstance(span, dict) and span["max"] == -1:
                span["max"] = span["default"]
        data["resources"]["cpu"] = {key: milli / 1000 for key, milli in data["resources"]["cpu"].items()}
        listed = []
        for parameter in self.parameters:
            entry = parameter.model_dump(
                mode="json", exclude_defaults=True, exclude={"max_length", "max_bytes", "schemes"}
            )
            if parameter.type == "file":
                entry["max_bytes"] = parameter.max_bytes
                entry["schemes"] = list(parameter.schemes)
            listed.append({**entry, "accepts": parameter.accepts()})
        data["parameters"] = listed
        data["own_parameters"] = self.notebook_parameter is not None
        data["outputs"] = [output.model_dump(mode="json") for output in self.all_outputs]
        data["result"] = self.sync_result
        return data

    def parameter_schema(self) -> dict[str, Any]:
        """A JSON Schema (2020-12) of the parameters, as in an OpenAPI 3.1 document."""
        properties = {parameter.name: _json_schema(parameter) for parameter in self.parameters}
        limits = self.resources
        for word, top, what in (
            ("CPU", write_cores(limits.cpu.ceiling), "cores"),
            ("MEMORY", write_size(limits.memory.ceiling), "bytes, or a size such as 4GiB"),
            ("DISK", write_size(limits.disk.ceiling), "bytes, or a size such as 4GiB"),
            ("GPU", str(limits.gpu.ceiling), "GPUs"),
        ):
            properties[word] = {"type": ["string", "number"], "description": f"{what}; at most {top}"}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": [parameter.name for parameter in self.parameters if parameter.required],
            "additionalProperties": False,
        }
        if self.notebook_parameter:
            text = "a parameter of the notebook, its name in the notebook's own case"
            schema["patternProperties"] = {r"^p\.[^.]+$": {"description": text}}
        return schema

    def own_parameters(self) -> tuple[NotebookParameter, ...] | None:
        """The parameters of the notebook that ships with the template; None without one or if any will do."""
        return None if self.content is None else read_parameters(self.content.encode())


def _asked(asked: Mapping[str, str], word: str, span: Span, measure: _Measure, least: int) -> int:
    if word not in asked:
        return span.default
    read, write, words = measure
    try:
        amount = read(asked[word])
    except ValueError:
        amount = -1
    if not least <= amount <= span.ceiling:
        raise BadRequest(
            f"parameter {word} is {shown(asked[word])}; "
            f"it accepts {words} from {write(least)} to {write(span.ceiling)}"
        )
    return amount


_FORMS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "choice": {"type": "string"},
    "instant": {"type": "string", "format": "date-time"},
    "json": {},
    "object": {"type": "object"},
    "file": {"type": "string", "format": "uri"},
    "arguments": {"type": "array", "items": {"type": "string"}},
    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
}


def _json_schema(kind: ParameterType) -> dict[str, Any]:
    bounded = kind.type in {"integer", "number"}
    form = _FORMS[kind.type] | _present(
        enum=list(kind.choices) or None,
        maxLength=kind.max_length if kind.type == "string" else None,
        pattern=None if kind.pattern is None else f"^(?:{kind.pattern})$",
        minimum=kind.min if bounded else None,
        maximum=kind.max if bounded else None,
    )
    if kind.multiple:
        form = {"type": "array", "items": form}
    about = {"x-unit": kind.unit, "x-ucd": kind.ucd}
    return form | _present(description=kind.description or None, default=kind.default, **about)


def _present(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}
