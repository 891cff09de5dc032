"""One template file: the template that it makes, or every mistake in it with its line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from job_templates import yaml_lines
from job_templates.cross_checks import Mistake, mistakes
from job_templates.file_words import place_and_sentence
from job_templates.schema import Definition
from job_templates.template import Template

MAX_NOTEBOOK_BYTES = 1024**2
"""A notebook that ships with a template travels inside the run spec."""


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
        wrong = [place_and_sentence(item, marked.data) for item in error.errors(include_url=False)]
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in wrong)
    found: list[Mistake] = []
    notebook = None
    try:
        notebook = _notebook(path, definition.notebook)
    except ValueError as error:
        found.append((("notebook",), str(error)))
    found += mistakes(definition, notebook)
    if found:
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in found)
    digest = hashlib.sha256(raw + (notebook or b"")).hexdigest()
    content = None if notebook is None else notebook.decode("utf-8-sig")
    return Template(**dict(definition), digest=digest, content=content), []


def _notebook(path: Path, name: str | None) -> bytes | None:
    """The notebook that ships with a template, where one does.

    :raises ValueError: it cannot be read, or is too large; says so.
    """
    if name is None or "{" in name:
        return None
    if Path(name).name != name:
        raise ValueError(f"{name!r} does not lie beside the template; name a file there")
    try:
        content = path.with_name(name).read_bytes()
    except OSError as error:
        raise ValueError(f"the notebook {name!r} cannot be read: {error.strerror}") from None
    if len(content) > MAX_NOTEBOOK_BYTES:
        raise ValueError(f"the notebook has {len(content)} bytes; at most {MAX_NOTEBOOK_BYTES} are taken")
    return content
