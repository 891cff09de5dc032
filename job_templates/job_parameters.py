"""A job's parameters, sorted by those of its template and read as them: the checked values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from job_templates.client_text import nearest, shown
from job_templates.input_files import Staged, safe_name, stage
from job_templates.notebook_parameters import NotebookParameter, read_parameters
from job_templates.notebook_values import PREFIX, check_required, from_object, from_text, is_own, own_name
from job_templates.parameter_type import ParameterType
from job_templates.reading import read, read_all
from job_templates.reserved import resource_word
from job_templates.schema import NOTEBOOK_PATH, Definition
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter

OWN_OBJECT = "parameters"
"""The parameter that may hold a notebook's own parameters as one JSON object."""

MAX_TIMES = 1000
"""How often a parameter that may be repeated may stand."""

ReadUpload = Callable[[str], bytes]
"""The content that came with the job as the parameter of this name."""


class JobParameters:
    """The parameters of one job, sorted.

    ``own`` are those of the notebook that the job brings, ``p.N`` as ``N``; ``staged`` are the job's files,
    by the name of the parameter that they are for.

    :raises BadRequest: one is unknown, missing, given too often, a file where text is due, or no good file.
    """

    def __init__(self, template: Definition, parameters: Sequence[Parameter]) -> None:
        self._template = template
        self._by_name: dict[str, list[Parameter]] = {}
        self.own: dict[str, Parameter] = {}
        self.staged: dict[str, list[Staged]] = {}
        for parameter in parameters:
            if not resource_word(parameter.name):
                self._sort(parameter)
        for kind in template.parameters:
            given = self._by_name.get(kind.name, [])
            _check_times(kind, given)
            if kind.type == "file":
                self.staged[kind.name] = self._files(kind, given)
            elif any(parameter.upload for parameter in given):
                raise BadRequest(f"parameter {kind.name} takes text, not a file; it accepts {kind.accepts()}")
        for name, parameter in self.own.items():
            if parameter.upload is not None:
                # Its directory cannot be that of a typed parameter, whose name has no dot.
                path = f"p.{_folder(name)}/{safe_name(parameter.value)}"
                file = ParameterType(name=_folder(name), type="file")
                self.staged[PREFIX + name] = [stage(file, parameter, path=path)]

    def _sort(self, parameter: Parameter) -> None:
        kind = self._template.find(parameter.name)
        if kind is not None:
            self._by_name.setdefault(kind.name, []).append(parameter)
        elif self._template.notebook_parameter and is_own(parameter.name):
            name = own_name(parameter.name)
            if name in self.own:
                raise BadRequest(f"parameter {PREFIX}{name} may stand only once")
            self.own[name] = parameter
        else:
            names = [known.name for known in self._template.parameters]
            listed = ", ".join([*names, *([f"{PREFIX}NAME"] if self._template.notebook_parameter else ())])
            raise BadRequest(
                f"service {self._template.name} has no parameter {shown(parameter.name)}; "
                f"it accepts {listed or 'none'}{nearest(parameter.name, names)}"
            )

    def _files(self, kind: ParameterType, given: Sequence[Parameter]) -> list[Staged]:
        if not given and kind.default is not None:
            urls = kind.default if isinstance(kind.default, list) else [kind.default]
            given = [Parameter(kind.name, str(url)) for url in urls]
        uploaded = [parameter.name for parameter in given if parameter.upload]
        if len(uploaded) > len(set(uploaded)):
            raise BadRequest(
                f"parameter {kind.name} came with several files; "
                f"name the further ones {kind.name}.2, {kind.name}.3, …"
            )
        path = NOTEBOOK_PATH if kind == self._template.notebook_parameter else None
        taken: set[str] = set()
        files = []
        for parameter in given:
            files.append(stage(kind, parameter, taken, path))
            taken.add(files[-1].input.path)
        return files

    def uploaded(self, kind: ParameterType) -> bool:
        """Whether the job came with a file for a parameter."""
        return any(parameter.upload for parameter in self._by_name.get(kind.name, ()))

    def values(self, read_upload: ReadUpload | None) -> dict[str, Any]:
        """Every typed value, defaults included."""
        values: dict[str, Any] = {}
        for kind in self._template.parameters:
            given = self._by_name.get(kind.name, [])
            if kind.type == "file":
                paths = [file.value for file in self.staged[kind.name]]
                if paths:
                    values[kind.name] = paths if kind.multiple else paths[0]
            elif given:
                texts = [parameter.value for parameter in given]
                if kind.type in ("arguments", "environment"):
                    values[kind.name] = read_all(kind, texts)
                else:
                    typed = [read(kind, text) for text in texts]
                    values[kind.name] = typed if kind.multiple else typed[0]
            elif kind.default is not None:
                values[kind.name] = default_value(kind)
        bringer = self._template.notebook_parameter
        if bringer is not None and bringer.name in self._by_name:
            values[OWN_OBJECT] = self._own_values(bringer, values.get(OWN_OBJECT) or {}, read_upload)
        return values

    def _own_values(
        self, bringer: ParameterType, together: Mapping[str, Any], read_upload: ReadUpload | None
    ) -> dict[str, Any]:
        notebook = self._by_name[bringer.name][0]
        readable = notebook.upload is not None and read_upload is not None
        known: Sequence[NotebookParameter] | None = None
        if readable and read_upload is not None:
            try:
                known = read_parameters(read_upload(notebook.name))
            except ValueError as error:
                raise BadRequest(
                    f"parameter {bringer.name} is no notebook that can be run: {error}"
                ) from None
        for name in together:
            own_name(PREFIX + name)
        values = from_object(known, together)
        for name, parameter in self.own.items():
            if name in together:
                raise BadRequest(f"parameter {PREFIX}{name} is in {OWN_OBJECT!r} too; say it once")
            text = parameter.value
            if parameter.upload is not None:
                text = self.staged[PREFIX + name][0].value
            values[name] = from_text(known, name, text) if readable else text
        check_required(known, values)
        return values


def _check_times(kind: ParameterType, given: Sequence[Parameter]) -> None:
    if not given and kind.required:
        raise BadRequest(f"parameter {kind.name} is missing; it accepts {kind.accepts()}")
    if len(given) > 1 and not kind.repeatable:
        raise BadRequest(f"parameter {kind.name} may stand only once; it stands {len(given)} times")
    if len(given) > MAX_TIMES:
        raise BadRequest(f"parameter {kind.name} stands {len(given)} times; at most {MAX_TIMES} are accepted")


def _folder(variable: str) -> str:
    # A variable may be written in any script; the directory of its file may not.
    if variable.isascii() and len(variable) <= 64:
        return variable
    return f"p{hashlib.sha256(variable.encode()).hexdigest()[:16]}"


def default_value(kind: ParameterType) -> Any:
    """A parameter's default, typed as a client's value would be.

    :raises BadRequest: the default is nothing that the parameter accepts.
    """
    defaults = kind.default if kind.multiple and isinstance(kind.default, list) else [kind.default]
    if kind.type == "file":
        typed = [stage(kind, Parameter(kind.name, _as_text(default))).value for default in defaults]
    elif kind.type in ("arguments", "environment"):
        return read_all(kind, [_as_text(kind.default)])
    else:
        typed = [read(kind, _as_text(default)) for default in defaults]
    return typed if kind.multiple else typed[0]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
