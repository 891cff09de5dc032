"""A client's text: as it may be shown, and as JSON. Light, for the notebook runner imports it too."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from uws_server.domain.errors import BadRequest


def shown(value: str) -> str:
    """A client's text as it may stand in a sentence: short, and every odd character escaped."""
    return repr(value) if len(value) <= 60 else f"{value[:60]!r}…"


def read_json(text: str) -> Any:
    """A JSON value without NaN and infinities, and with every name once in each object.

    :raises ValueError: not JSON, or not text: lone surrogates.
    :raises BadRequest: a name stands twice; readers differ in which of the values they take.
    :raises RecursionError: nested too deeply.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    value = json.loads(text, parse_constant=refuse, object_pairs_hook=members)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as a hook of the parser's.

    :raises BadRequest: a name stands twice in it; the sentence names it.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise BadRequest(f"the name {shown(twice)} stands twice in one JSON object")
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the known one that looks most like it, if any does."""
    near = difflib.get_close_matches(name[:64].casefold(), [one.casefold() for one in known], 1, 0.6)
    for one in known:
        if near and one.casefold() == near[0]:
            return f"; did you mean {one}?"
    return ""
