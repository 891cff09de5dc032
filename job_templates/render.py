"""Template + job → run spec. Pure: the same job gives the same run spec on every worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from job_templates.input_files import INPUTS
from job_templates.job_parameters import OWN_OBJECT, JobParameters, ReadUpload
from job_templates.schema import NOTEBOOK_PATH, PLACE
from job_templates.template import Template
from uws_server.domain.job import Job
from uws_server.domain.runspec import AttemptLimits, Input, Output, RunSpec

KERNEL = "kernel"
"""The parameter of a notebook service that names the kernel; the notebook does not see it."""

_NOTEBOOK_COMMAND = (
    "{python}",
    "-m",
    "runners.notebook",
    INPUTS + NOTEBOOK_PATH,
    "--parameters",
    "{parameters}",
    "--outputs",
    "{outputs}",
)


def render(template: Template, job: Job, read_upload: ReadUpload | None = None) -> RunSpec:
    """What a runner is to do for the job's current attempt.

    Without ``read_upload`` the ``p.NAME`` of an uploaded notebook stay text and the command says so
    (``--text NAME``); the notebook runner then types them, as it does for a notebook that comes by URL.

    :raises BadRequest: the job does not suit the template, which may have changed since it was created.
    """
    resources = template.resources_of(job.parameters)
    given = JobParameters(template, job.parameters)
    values = given.values(read_upload)
    parameters = values
    command: tuple[str, ...]
    words = _words(template, values)
    if template.kind == "notebook":
        command, parameters = _notebook(template, given, values, read_upload)
    else:
        command = tuple(text for item in template.command for text in _items(item, words))
    return RunSpec(
        job_id=job.id,
        attempt=job.attempt,
        service=template.name,
        kind=template.kind,
        command=command,
        image=None if template.image is None else _filled(template.image, words),
        environment=_environment(template, words),
        parameters=parameters,
        inputs=_inputs(template, given),
        outputs=tuple(
            Output(id=output.id, glob=output.glob, media_type=output.media_type, required=output.required)
            for output in template.all_outputs
        ),
        resources=resources,
        limits=limits_of(template, job),
    )


def limits_of(template: Template, job: Job) -> AttemptLimits:
    """Where the job's attempts are stopped or cut off.

    :raises BadRequest: as `render`.
    """
    disk = template.resources_of(job.parameters).disk_bytes
    return AttemptLimits(duration=job.duration, log_bytes=template.resources.log, output_bytes=disk)


def _notebook(
    template: Template, given: JobParameters, values: Mapping[str, Any], read_upload: ReadUpload | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    command = [*_NOTEBOOK_COMMAND]
    if KERNEL in values:
        command += ["--kernel", values[KERNEL]]
    bringer = template.notebook_parameter
    if bringer is None:
        return tuple(command), {name: value for name, value in values.items() if name != KERNEL}
    if not (given.uploaded(bringer) and read_upload):
        for name in given.own:
            command += ["--text", name]
    return tuple(command), values[OWN_OBJECT]


def _inputs(template: Template, given: JobParameters) -> tuple[Input, ...]:
    files = tuple(file.input for files in given.staged.values() for file in files)
    if template.content is None:
        return files
    shipped = Input(path=NOTEBOOK_PATH, source=f"inline:{template.notebook}", content=template.content)
    return (shipped, *files)


def _words(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each choice as the word that its template puts in its place."""
    words = dict(values)
    for kind in template.parameters:
        if kind.means and kind.name in values:
            value = values[kind.name]
            several = [kind.means.get(one, one) for one in (value if kind.multiple else [value])]
            words[kind.name] = several if kind.multiple else several[0]
    return words


def _environment(template: Template, words: Mapping[str, Any]) -> dict[str, str]:
    environment = {name: _filled(text, words) for name, text in template.environment.items()}
    for kind in template.parameters:
        if kind.type == "environment":
            environment |= words.get(kind.name, {})
    return environment


def _items(item: str, words: Mapping[str, Any]) -> list[str]:
    """What an item of a command becomes; one that is a value alone: none if absent, several for a list."""
    whole = PLACE.fullmatch(item)
    if whole is None:
        return [_filled(item, words)]
    value = words.get(whole[1])
    if value is None:
        return []
    return [_text(one) for one in value] if isinstance(value, list) else [_text(value)]


def _filled(text: str, words: Mapping[str, Any]) -> str:
    return PLACE.sub(lambda match: _text(words.get(match[1], "")), text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
