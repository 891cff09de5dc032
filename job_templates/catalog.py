"""All templates of a server, loaded and checked before it starts.

Every mistake in every file is found in one go, each told with file and line, as compilers do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from job_templates import yaml_lines
from job_templates.client_text import shown
from job_templates.job_parameters import JobParameters
from job_templates.notebook import NotebookParameter, read_parameters
from job_templates.parameter_type import ParameterType
from job_templates.schema import Definition, nearest
from job_templates.template import Template
from uws_server.domain.errors import BadRequest, NotFound
from uws_server.domain.job import Parameter

SHIPPED = Path(__file__).with_name("data")

MAX_NOTEBOOK_BYTES = 1024**2
"""A notebook that ships with a template travels inside the run spec."""

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


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a template file."""

    file: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}"


class TemplateErrors(Exception):
    """The templates have mistakes; ``problems`` are all of them, ``str()`` has one on each line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class Catalog:
    """The templates by name; iterates in the order of the names."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = dict(sorted(templates.items()))

    def get(self, name: str) -> Template:
        """The template of a service.

        :raises NotFound: there is no such service.
        """
        try:
            return self._templates[name]
        except KeyError:
            hint = nearest(name, list(self._templates))
            raise NotFound(f"there is no service {shown(name)}{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._templates

    def __iter__(self) -> Iterator[Template]:
        return iter(self._templates.values())

    def __len__(self) -> int:
        return len(self._templates)


def load(directories: Sequence[Path] = (), shipped: bool = True) -> Catalog:
    """The shipped templates and those of the operator's directories.

    A template of the operator's takes the place of the shipped one of the same name.

    :raises TemplateErrors: with every mistake in every file.
    """
    catalog, problems = _load(directories, shipped)
    if problems:
        raise TemplateErrors(problems)
    return catalog


def check(directories: Sequence[Path] = (), shipped: bool = True) -> list[str]:
    """Every mistake, as ``FILE:LINE: sentence``; empty when `load` would succeed."""
    return [str(problem) for problem in _load(directories, shipped)[1]]


def _load(directories: Sequence[Path], shipped: bool) -> tuple[Catalog, list[Problem]]:
    problems: list[Problem] = []
    templates: dict[str, Template] = {}
    origin: dict[str, Path] = {}
    for directory in [*([SHIPPED] if shipped else []), *directories]:
        try:
            files = sorted(path for path in directory.iterdir() if path.suffix in {".yaml", ".yml"})
        except OSError as error:
            problems.append(Problem(str(directory), 1, f"the directory cannot be read: {error.strerror}"))
            continue
        for path in files:
            template, found = read_file(path)
            problems += found
            if template is None:
                continue
            before = origin.get(template.name)
            if before is not None and before.parent != SHIPPED:
                problems.append(
                    Problem(str(path), 1, f"service {template.name!r} is made by {before} already")
                )
            templates[template.name] = template
            origin[template.name] = path
    return Catalog(templates), problems


def read_file(path: Path) -> tuple[Template | None, list[Problem]]:
    """One template file: the template, or what is wrong with it."""
    file, raw = str(path), b""
    try:
        if path.stat().st_size > 4 * yaml_lines.MAX_CHARACTERS:
            return None, [Problem(file, 1, f"larger than {4 * yaml_lines.MAX_CHARACTERS} bytes")]
        raw = path.read_bytes()
        text = raw.decode()
        marked = yaml_lines.read(text)
    except OSError as error:
        return None, [Problem(file, 1, f"the file cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return None, [Problem(file, raw.count(b"\n", 0, error.start) + 1, "not UTF-8 text")]
    except yaml_lines.Unreadable as error:
        return None, [Problem(file, error.line, str(error))]
    if not isinstance(marked.data, dict):
        return None, [Problem(file, 1, "a template is a mapping with 'name', 'title', 'kind' …")]
    try:
        # Through JSON, for there strictness takes a list for a tuple but "3" for no number.
        definition = Definition.model_validate_json(json.dumps(marked.data), strict=True)
    except ValidationError as error:
        return None, sorted(
            Problem(file, _line(marked, item["loc"], item["type"]), _sentence(item))
            for item in error.errors(include_url=False)
        )
    content, found = _read_notebook(path, definition)
    found += definition.problems()
    if not found:
        found = _example_problems(definition)
    if found:
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in found)
    digest = hashlib.sha256(raw + (content or "").encode()).hexdigest()
    return Template(**dict(definition), digest=digest, content=content), []


_Found = list[tuple[tuple[str | int, ...], str]]


def _read_notebook(path: Path, definition: Definition) -> tuple[str | None, _Found]:
    """The text of the notebook that ships with a template, and whether its parameters are the template's."""
    name = definition.notebook
    if name is None or "{" in name:
        return None, []
    if Path(name).name != name:
        return None, [(("notebook",), f"{name!r} does not lie beside the template")]
    try:
        content = path.with_name(name).read_bytes()
    except OSError as error:
        return None, [(("notebook",), f"the notebook {name!r} cannot be read: {error.strerror}")]
    if len(content) > MAX_NOTEBOOK_BYTES:
        return None, [
            (("notebook",), f"the notebook has {len(content)} bytes; at most {MAX_NOTEBOOK_BYTES} are taken")
        ]
    try:
        known = read_parameters(content)
    except ValueError as error:
        return None, [(("notebook",), f"{name!r}: {error}")]
    return content.decode("utf-8-sig"), _mismatches(definition, known)


def _mismatches(definition: Definition, known: Sequence[NotebookParameter] | None) -> _Found:
    if known is None:
        return []
    found: _Found = []
    by_name = {parameter.name: parameter for parameter in known}
    for number, kind in enumerate(definition.parameters):
        place = ("parameters", number, "name")
        own = by_name.pop(kind.name, None)
        if kind.name == "kernel":
            continue
        if own is None:
            hint = nearest(kind.name, list(by_name))
            found.append((place, f"the notebook has no parameter {kind.name!r} in its parameters cell{hint}"))
        elif own.type != "any" and own.type not in _types(kind):
            found.append(
                (place, f"parameter {kind.name!r} is of type {kind.type}, but the notebook takes {own.type}")
            )
    for own in by_name.values():
        if own.required:
            found.append(
                (("parameters",), f"the notebook needs {own.name!r}, which the template does not give")
            )
    return found


def _types(kind: ParameterType) -> set[str]:
    return {"list"} if kind.multiple else _PYTHON_TYPES[kind.type]


def _example_problems(definition: Definition) -> _Found:
    found: _Found = []
    for number, example in enumerate(definition.examples):
        try:
            given = [Parameter(name, value) for name, value in example.parameters.items()]
            JobParameters(definition, given).values(None)
        except BadRequest as refused:
            found.append((("examples", number), f"the example does not work: {refused}"))
    return found


def _line(marked: yaml_lines.Marked, loc: tuple[int | str, ...], kind: str) -> int:
    return marked.line(loc[:-1] if kind == "missing" else loc)


def _sentence(item: Any) -> str:
    """What pydantic found, in words of the file."""
    loc: tuple[int | str, ...] = item["loc"]
    place = ".".join(str(part) for part in loc)
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key {place!r}{nearest(str(loc[-1]), _keys(loc[:-1]))}"
        case "missing":
            return f"{place!r} is missing"
        case "value_error":
            words = str(item["ctx"]["error"])
            return f"{place}: {words}" if place else words
        case "string_pattern_mismatch" if loc == ("name",):
            return f"name: {shown(item['input'])} is no service name: lower-case letters, digits and hyphens"
        case _:
            given = item["input"]
            tail = f" (given: {shown(str(given))})" if isinstance(given, str | int | float) else ""
            return f"{place}: {item['msg'][:1].lower()}{item['msg'][1:]}{tail}"


def _keys(loc: Sequence[int | str]) -> list[str]:
    """The keys that a template has at a place."""
    model: type[BaseModel] = Definition
    for part in loc:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            candidates = [field.annotation, *get_args(field.annotation)] if field else []
            inner = [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]
            if not inner:
                return []
            model = inner[0]
    return list(model.model_fields)
