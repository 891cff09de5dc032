"""One template file: the template that it makes, or every mistake in it with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from job_templates import cross_checks, yaml_lines
from job_templates.client_text import nearest, shown
from job_templates.schema import Definition
from job_templates.template import Template


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a template file."""

    file: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}"


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
    content, found = cross_checks.read_shipped_notebook(path, definition)
    found += cross_checks.mistakes(definition)
    if found:
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in found)
    digest = hashlib.sha256(raw + (content or "").encode()).hexdigest()
    return Template(**dict(definition), digest=digest, content=content), []


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
