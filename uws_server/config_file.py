"""Read a settings file and remember on which line each key stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

Lines = dict[tuple[str, ...], int]


class BadConfig(Exception):
    """The settings cannot be used; ``str()`` has one sentence a line, with file and line where known."""


def read(path: Path) -> tuple[dict[str, Any], Lines]:
    """The tree in a ``.toml``, or else YAML (and so also JSON), file, and the line of each of its keys.

    :raises BadConfig: not there, not of that form, no mapping, or a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"the settings file cannot be read: {error}") from error
    return _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)


def _yaml(path: Path, text: str) -> tuple[dict[str, Any], Lines]:
    import yaml

    lines: Lines = {}

    def walk(node: yaml.Node, above: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            here = (*above, str(key.value))
            line = key.start_mark.line + 1
            if here in lines:  # YAML would silently take the last one
                name = ".".join(here)
                raise BadConfig(f"{path}, line {line}: {name} is given twice, first on line {lines[here]}")
            lines[here] = line
            walk(value, here)

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise BadConfig(f"{path} holds no settings: it must be keys and values")
        walk(node, ())
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadConfig(f"{path}, line {line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadConfig(f"{path} is no YAML: {error}") from error
    return {str(key): value for key, value in tree.items()}, lines


def _toml(path: Path, text: str) -> tuple[dict[str, Any], Lines]:
    import tomllib

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path}: {error}") from error
    # The standard parser keeps no lines. Headers and plain keys are enough to point at.
    lines: Lines = {}
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.fullmatch(r"\s*\[\s*([\w.\"'-]+)\s*\]\s*(#.*)?", line):
            section = _names(header[1])
            for depth in range(1, len(section) + 1):
                lines.setdefault(section[:depth], number)
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            lines.setdefault((*section, *_names(key[1])), number)
    return tree, lines


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
