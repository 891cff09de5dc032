"""What can be wrong with a template although each part of its file is right by itself.

Names that are taken, places in a command that nothing fills, defaults and examples that the parameters
would refuse, a notebook that takes other parameters than the template gives it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from job_templates.client_text import nearest
from job_templates.job_parameters import JobParameters, default_value
from job_templates.notebook_parameters import read_parameters
from job_templates.parameter_type import ParameterType
from job_templates.reading import is_variable
from job_templates.reserved import CONTROL_WORDS, RESOURCE_WORDS, RUNNER_WORDS, SERVICE_NAMES
from job_templates.schema import PLACE, Definition
from uws_server.domain.errors import BadRequest
from uws_server.domain.job import Parameter

Mistake = tuple[tuple[str | int, ...], str]
"""The path of a key within the file, and a sentence."""

_PYTHON_TYPES = {
    "string": {"str"},
    "choice": {"str"},
    "instant": {"str"},
    "file": {"str"},
    "integer": {"int", "float"},
    "number": {"float"},
    "boolean": {"bool"},
    "object": {"dict"},
    "json": {"list", "dict"},
    "arguments": {"list"},
    "environment": {"dict"},
}


def mistakes(definition: Definition, notebook: bytes | None = None) -> list[Mistake]:
    """What is wrong although every part by itself is right: path within the file, and a sentence.

    :param notebook: the one that ships with the template.
    """
    found = [
        *([] if notebook is None else _notebook(definition, notebook)),
        *_names(definition),
        *_places(definition),
        *_outputs(definition),
        *_defaults(definition),
    ]
    return found or _examples(definition)  # an example can only be tried with parameters that are right


def _names(definition: Definition) -> list[Mistake]:
    found: list[Mistake] = []
    if definition.name in SERVICE_NAMES:
        found.append(
            (
                ("name",),
                f"a service cannot be named {definition.name!r}: the server uses that path itself",
            )
        )
    seen: dict[str, str] = {}
    for number, parameter in enumerate(definition.parameters):
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
            found.append((path, f"parameter {parameter.name!r} is a resource word that every service has"))
    return found


def _places(definition: Definition) -> list[Mistake]:
    found: list[Mistake] = []
    places: list[Mistake] = [(("command", number), item) for number, item in enumerate(definition.command)]
    places += [((key,), text) for key in ("notebook", "image") if (text := getattr(definition, key))]
    bringer = definition.notebook_parameter
    if bringer and (bringer.type != "file" or bringer.multiple or not bringer.required):
        found.append((("notebook",), f"parameter {bringer.name!r} is not one required file"))
    places += [(("environment", key), text) for key, text in definition.environment.items()]
    names = [parameter.name for parameter in definition.parameters]
    for path, text in places:
        for place in re.findall(r"\{value\b[^{}]*\}?", text):
            match = PLACE.fullmatch(place)
            if match is None:
                found.append((path, f"{place!r} is no place for a value; write {{value:NAME}}"))
            elif definition.find(match[1]) is None:
                found.append((path, f"{place} names no parameter{_hint(match[1], names)}"))
        for word in re.findall(r"\{(\w+)\}", text):
            if word not in RUNNER_WORDS and word != "value":
                meant = f"; did you mean {{value:{word}}}?" if definition.find(word) else None
                hint = meant or _hint(f"{{{word}}}", [f"{{{known}}}" for known in sorted(RUNNER_WORDS)])
                found.append((path, f"{{{word}}} is nothing that a runner replaces{hint}"))
    for key in definition.environment:
        if not is_variable(key):
            sentence = f"{key!r} cannot be set: a name has letters, digits and _, and UWS_ is the server's"
            found.append((("environment", key), sentence))
    return found


def _hint(name: str, known: Sequence[str]) -> str:
    return nearest(name, known) or f"; there is {', '.join(known) or 'none'}"


def _outputs(definition: Definition) -> list[Mistake]:
    found: list[Mistake] = []
    ids = [output.id for output in definition.all_outputs]
    for number, output in enumerate(definition.outputs):
        if ids.count(output.id) > 1:
            found.append((("outputs", number, "id"), f"the result id {output.id!r} is there twice"))
    if len(ids) == 1 and ids != ["result"]:
        found.append((("outputs", 0, "id"), "the only output of a service has the id 'result'"))
    if definition.result and definition.result not in ids:
        found.append((("result",), f"{definition.result!r} is no output{_hint(definition.result, ids)}"))
    return found


def _defaults(definition: Definition) -> list[Mistake]:
    found: list[Mistake] = []
    for number, parameter in enumerate(definition.parameters):
        if parameter.default is None:
            continue
        try:
            default_value(parameter)
        except BadRequest as refused:
            found.append((("parameters", number, "default"), str(refused)))
    return found


def _examples(definition: Definition) -> list[Mistake]:
    found: list[Mistake] = []
    for number, example in enumerate(definition.examples):
        try:
            given = [Parameter(name, value) for name, value in example.parameters.items()]
            JobParameters(definition, given).values(None)
        except BadRequest as refused:
            found.append((("examples", number), f"the example does not work: {refused}"))
    return found


def _notebook(definition: Definition, content: bytes) -> list[Mistake]:
    try:
        known = read_parameters(content)
    except ValueError as error:
        return [(("notebook",), f"{definition.notebook!r}: {error}")]
    if known is None:
        return []
    found: list[Mistake] = []
    by_name = {parameter.name: parameter for parameter in known}
    for number, kind in enumerate(definition.parameters):
        place = ("parameters", number, "name")
        own = by_name.pop(kind.name, None)
        if kind.name == "kernel":
            continue
        if own is None:
            hint = _hint(kind.name, list(by_name))
            found.append((place, f"the notebook has no parameter {kind.name!r} in its parameters cell{hint}"))
        elif own.type != "any" and own.type not in _types(kind):
            found.append(
                (place, f"parameter {kind.name!r} is of type {kind.type}, but the notebook takes {own.type}")
            )
    found += [
        (("parameters",), f"the notebook needs {own.name!r}, which the template does not give")
        for own in by_name.values()
        if own.required
    ]
    return found


def _types(kind: ParameterType) -> set[str]:
    return {"list"} if kind.multiple else _PYTHON_TYPES[kind.type]
