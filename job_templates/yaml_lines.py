"""YAML as templates use it, each value with the line on which it stands.

The dialect is the JSON-like core of YAML 1.2: ``yes`` and ``on`` are words, ``1e-3`` is a number, a date is
text. PyYAML's own reading (YAML 1.1) takes all three for something else, which in a list of choices or
as a bound is found out late. Aliases are not read (so nothing can multiply itself), a key may stand once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 20_000

Path = tuple[str | int, ...]


class Unreadable(ValueError):
    """Text that is no YAML, or more of YAML than is read here; ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Marked:
    """The data of one YAML text, and the line of every key and item by its path."""

    data: Any
    lines: dict[Path, int]

    def line(self, path: Sequence[str | int]) -> int:
        """Where a path stands; for one that is not there, the nearest thing that holds it."""
        known = tuple(path)
        while known not in self.lines and known:
            known = known[:-1]
        return self.lines.get(known, 1)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's way


_NUMBER_START = list("-+.0123456789")
for _tag, _pattern, _first in (
    ("bool", r"true|false", ["t", "f"]),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,18})", _NUMBER_START),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?", _NUMBER_START),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read(text: str) -> Marked:
    """The one document in a YAML text.

    :raises Unreadable: with the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{len(text)} characters; at most {MAX_CHARACTERS} are read", 1)
    try:
        _measure(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: dict[Path, int] = {}
            return Marked(None if root is None else _value(loader, root, (), lines), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(_sentence(error), mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(
            f"a character that YAML does not take: #x{ord(text[error.position]):x}", line
        ) from None


def _sentence(error: yaml.MarkedYAMLError) -> str:
    """What PyYAML found. The mistakes that nearly everybody makes are told in our words."""
    problem, context = error.problem or "not YAML", error.context or ""
    begun = error.context_mark.line + 1 if error.context_mark else 0
    if problem == "mapping values are not allowed here":
        return "a second ': ' in one line; put a value that holds one in quotes"
    if "'\\t' that cannot start any token" in problem:
        return "a tab; YAML is indented with spaces"
    if "that cannot start any token" in problem or "alias" in context or "anchor" in context:
        return "a value that begins with one of * & @ % `; put it in quotes"
    if problem.startswith("expected <block end>"):
        return f"this does not go on what began in line {begun}; look at the indentation and the quotes"
    return problem + (f" ({context}, line {begun})" if begun else "")


def _measure(text: str) -> None:
    # Events come from a state machine; nodes are composed recursively, so depth is bounded before.
    depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable("an alias (*name); write the value out, or put text in quotes", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", line)
        if nodes > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} values", line)


def _value(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*path, number), lines) for number, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            value = loader.construct_object(node)
        except ValueError:  # `!!int x`
            raise Unreadable("a value that is not what its tag says", node.start_mark.line + 1) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise Unreadable(f"the number {node.value} is too large", node.start_mark.line + 1)
        if value is not None and not isinstance(value, str | int | float):
            raise Unreadable(
                "a value that is neither text, number, true, false nor null", node.start_mark.line + 1
            )
        return value
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key, str):
            raise Unreadable("a key that is not a word", line)
        if key in found:
            raise Unreadable(f"the key {key[:64]!r} stands here a second time", line)
        lines[*path, key] = line
        found[key] = _value(loader, value_node, (*path, key), lines)
    return found
