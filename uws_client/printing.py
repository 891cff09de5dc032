"""Text for people: what a server said made harmless, numbers with their units, columns that fit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

import click

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_SHORTEST_CUT = 8


def printable(text: str) -> str:
    """What a server said, without characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(value: dict[str, Any]) -> None:
    """One object on a line of its own."""
    click.echo(json.dumps(value))


def size(count: int) -> str:
    """A number of bytes."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(seconds: int) -> str:
    """Whole seconds exactly, as ``--time`` takes them: ``7d``, ``1h30min``."""
    words = ""
    for unit, length in _UNITS:
        count, seconds = divmod(seconds, length)
        words += f"{count}{unit}" if count else ""
    return words or "0s"


def roughly(seconds: float) -> str:
    """A time in the largest unit of which there are at least two, cut: ``90 s``, ``119 min``, ``3 d``."""
    unit, length = next((pair for pair in _UNITS if seconds >= 2 * pair[1]), _UNITS[-1])
    return f"{max(0, int(seconds // length))} {unit}"


def instant(moment: datetime) -> str:
    """UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def columns(stream: TextIO | None) -> int | None:
    """How many characters a line of this terminal holds; None where it is none, or was closed."""
    if stream is None or not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def cut(text: str, length: int) -> str:
    """At most so many characters, the last one … where some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, width: int | None = None, indent: str = ""
) -> str:
    """Columns, as wide as their widest entry; those whose head ends in ``>`` are flush right.

    Where that is more than ``width``, the last column is cut, to 8 characters at the shortest. A head
    without names is left out.
    """
    names = tuple(name.rstrip(">") for name in head)
    lines = [names, *rows] if any(names) else list(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    if width is not None:
        room = width - len(indent) - sum(widths[:-1]) - 2 * (len(head) - 1)
        widths[-1] = min(widths[-1], max(room, _SHORTEST_CUT))
    drawn = []
    for line in lines:
        cells = [
            cut(cell, length).rjust(length) if name.endswith(">") else cut(cell, length).ljust(length)
            for cell, length, name in zip(line, widths, head, strict=True)
        ]
        drawn.append(indent + "  ".join(cells).rstrip())
    return "\n".join(drawn)
