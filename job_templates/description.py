"""What others are told of a service: the JSON of ``/services``, and a JSON Schema of its parameters."""

from __future__ import annotations

from typing import Any

from job_templates.amounts import write_cores, write_size
from job_templates.parameter_type import ParameterType
from job_templates.template import Template


def describe(template: Template) -> dict[str, Any]:
    """The service for ``/services``: JSON values only; cores, bytes and seconds, 0 = unlimited."""
    data = template.model_dump(
        mode="json",
        include={"name", "title", "description", "kind", "resources", "examples", "digest"},
    )
    for span in data["resources"].values():
        if isinstance(span, dict) and span["max"] == -1:
            span["max"] = span["default"]
    data["resources"]["cpu"] = {key: milli / 1000 for key, milli in data["resources"]["cpu"].items()}
    listed = []
    for parameter in template.parameters:
        entry = parameter.model_dump(
            mode="json", exclude_defaults=True, exclude={"max_length", "max_bytes", "schemes"}
        )
        if parameter.type == "file":
            entry["max_bytes"] = parameter.max_bytes
            entry["schemes"] = list(parameter.schemes)
        listed.append({**entry, "accepts": parameter.accepts()})
    data["parameters"] = listed
    data["own_parameters"] = template.notebook_parameter is not None
    data["outputs"] = [output.model_dump(mode="json") for output in template.all_outputs]
    data["result"] = template.sync_result
    return data


def parameter_schema(template: Template) -> dict[str, Any]:
    """A JSON Schema (2020-12) of the parameters, as in an OpenAPI 3.1 document."""
    properties = {parameter.name: _json_schema(parameter) for parameter in template.parameters}
    limits = template.resources
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
        "required": [parameter.name for parameter in template.parameters if parameter.required],
        "additionalProperties": False,
    }
    if template.notebook_parameter:
        text = "a parameter of the notebook, its name in the notebook's own case"
        schema["patternProperties"] = {r"^p\.[^.]+$": {"description": text}}
    return schema


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
