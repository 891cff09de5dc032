"""A client's text: as it may be shown, and as JSON. Light, for the notebook runner imports it too."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any


def shown(value: str) -> str:
    """A client's text as it may stand in a sentence: short, and every odd character escaped."""
    return repr(value) if len(value) <= 60 else f"{value[:60]!r}…"


def read_json(text: str) -> Any:
    """A JSON value without NaN and infinities.

    :raises ValueError: not JSON, or not text: lone surrogates.
    :raises RecursionError: nested too deeply.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the known one that looks most like it, if any does."""
    near = difflib.get_close_matches(name[:64].casefold(), [one.casefold() for one in known], 1, 0.6)
    for one in known:
        if near and one.casefold() == near[0]:
            return f"; did you mean {one}?"
    return ""
