"""One template file: the template that it makes, or every mistake in it with its line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from job_templates import cross_checks, yaml_lines
from job_templates.file_words import place_and_sentence
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
        wrong = [place_and_sentence(item, marked.data) for item in error.errors(include_url=False)]
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in wrong)
    content, found = cross_checks.read_shipped_notebook(path, definition)
    found += cross_checks.mistakes(definition)
    if found:
        return None, sorted(Problem(file, marked.line(place), sentence) for place, sentence in found)
    digest = hashlib.sha256(raw + (content or "").encode()).hexdigest()
    return Template(**dict(definition), digest=digest, content=content), []
