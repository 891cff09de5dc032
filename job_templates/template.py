"""A job template as the server uses it: it checks a job's parameters and clips its wishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from job_templates.amounts import read_cores, read_count, read_size, write_cores, write_size
from job_templates.client_text import shown
from job_templates.job_parameters import JobParameters, ReadUpload
from job_templates.notebook_values import PREFIX, is_own
from job_templates.reserved import resource_word
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
