"""What a runner is given: a pure value that says what to run, with what, within which limits.

A run spec holds no word of any one runner and travels as JSON, to the supervisor of a local
attempt as to the pod of a Kubernetes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["notebook", "container", "command"]


@dataclass(frozen=True, slots=True)
class Input:
    """One file that the agent stages in before the user's code starts.

    ``path`` is relative, beneath the inputs directory. ``source`` is a URL (``http``, ``https``,
    ``file`` where the site allows it) or ``upload:NAME`` for the content that came
    with the job as parameter NAME. ``mode`` is the file's permission bits. Where ``content`` is given,
    that text (UTF-8) is the file and nothing is fetched; ``source`` then only says whence it came.
    """

    path: str
    source: str
    sha256: str | None = None
    max_bytes: int = 10 * 1024**3
    mode: int = 0o444
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One pattern of files beneath the outputs directory that become UWS results.

    ``glob`` is matched against relative paths (``*`` stays within one directory, ``**`` does not).
    A single match takes ``id`` as its result id; more take ``id`` with their path appended.
    ``required`` makes an attempt without any match a failed one.
    """

    id: str
    glob: str
    media_type: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """What the attempt may use: CPU in thousandths of a core, memory and disk in bytes."""

    cpu_milli: int = 1000
    memory_bytes: int = 2 * 1024**3
    disk_bytes: int = 10 * 1024**3
    gpu: int = 0
    processes: int = 512


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Where the attempt is stopped or cut off. Durations in seconds, 0 = unlimited."""

    duration: int = 0
    grace: int = 10
    log_bytes: int = 64 * 1024**2
    output_bytes: int = 10 * 1024**3
    output_files: int = 1000


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One attempt at one job.

    ``command`` is the argument vector of the user's process, never a shell line; empty for a
    container that runs its image's own entry point. ``parameters`` are the typed values of the
    job, which reach the user's code as the JSON file named by ``UWS_PARAMETERS``;
    ``environment`` holds further entries; a text in them that begins with ``{inputs}/`` is a path, see
    `located`. Nothing in a run spec is a credential.
    """

    job_id: str
    attempt: int
    service: str
    kind: Kind
    command: tuple[str, ...] = ()
    image: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    resources: Resources = Resources()
    limits: AttemptLimits = AttemptLimits()

    def to_json(self) -> str:
        """This run spec as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunSpec:
        """Read what `to_json` wrote.

        :raises ValueError: the text is no run spec.
        """
        try:
            data = json.loads(text)
            return cls(
                **{
                    **data,
                    "command": tuple(data["command"]),
                    "inputs": tuple(Input(**item) for item in data["inputs"]),
                    "outputs": tuple(Output(**item) for item in data["outputs"]),
                    "resources": Resources(**data["resources"]),
                    "limits": AttemptLimits(**data["limits"]),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a run spec: {error}") from error


def located(value: Any, inputs: str, outputs: str) -> Any:
    """A parameter or environment value with the real directories, which only the runner knows.

    Text that begins with ``{inputs}/`` or ``{outputs}/`` gets that word replaced, in lists and objects too;
    nothing else is, so that a value can hold braces.
    """
    match value:
        case str():
            for word, directory in (("{inputs}", inputs), ("{outputs}", outputs)):
                if value.startswith(f"{word}/"):
                    return directory + value.removeprefix(word)
            return value
        case list():
            return [located(item, inputs, outputs) for item in value]
        case dict():
            return {key: located(item, inputs, outputs) for key, item in value.items()}
        case _:
            return value


_PLACEHOLDER = re.compile(r"\{(inputs|outputs|parameters|python)\}")


def substitute(item: str, places: Mapping[str, str]) -> str:
    """One item of a command with the real ``{inputs}``, ``{outputs}``, ``{parameters}`` and ``{python}``."""
    return _PLACEHOLDER.sub(lambda match: places[match[1]], item)


def places(work: str, python: str) -> dict[str, str]:
    """What `substitute` puts into a command, for user code whose directory is ``work``."""
    return {
        "inputs": f"{work}/inputs",
        "outputs": f"{work}/outputs",
        "parameters": f"{work}/uws/parameters.json",
        "python": python,
    }


def parameters_file(spec: RunSpec, work: str) -> str:
    """The content of ``UWS_PARAMETERS``: the parameters as JSON, with real paths."""
    return json.dumps(located(spec.parameters, f"{work}/inputs", f"{work}/outputs"))


def variables(spec: RunSpec, work: str) -> dict[str, str]:
    """What every runner puts into the environment of the user's code, whose directory is ``work``.

    The run spec's own entries have the last word.
    """
    return {
        "HOME": f"{work}/tmp",  # noqa: S108 - nobody else's
        "TMPDIR": f"{work}/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "UWS_JOB_ID": spec.job_id,
        "UWS_ATTEMPT": str(spec.attempt),
        "UWS_INPUTS": f"{work}/inputs",
        "UWS_OUTPUTS": f"{work}/outputs",
        "UWS_PARAMETERS": f"{work}/uws/parameters.json",
        "UWS_PROGRESS": f"{work}/uws/progress",
        "UWS_ERROR": f"{work}/uws/error.json",
        **located(spec.environment, f"{work}/inputs", f"{work}/outputs"),
    }
