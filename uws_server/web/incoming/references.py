"""How one value refers to a part of the same body: ``param:NAME`` of UWS, and ``UPLOAD=NAME,URI`` of DALI."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uws_server.domain.errors import BadRequest
from uws_server.web.incoming.said import Pairs
from uws_server.web.incoming.words import CONTROL

INLINE = "param:"
_UPLOAD = re.compile(r"([A-Za-z][A-Za-z0-9_]*),(\S+)", re.ASCII)
_NEXT_UPLOAD = re.compile(r";(?=[A-Za-z][A-Za-z0-9_]*,)", re.ASCII)  # URLs, too, may hold semicolons


def referenced(value: str) -> str | None:
    """``x`` of ``param:x``, and of an UPLOAD's ``name,param:x``."""
    if value.startswith(INLINE):
        return value.removeprefix(INLINE)
    match = _UPLOAD.fullmatch(value)
    return referenced(match[2]) if match and match[2].startswith(INLINE) else None


def with_uploads(pairs: Pairs) -> Iterator[tuple[str, str]]:
    """The pairs, with each ``UPLOAD=name,uri`` read as the parameter ``name`` (DALI section 3.4.5).

    Several may stand in one value, ``name,uri;name,uri``: TAP began so, and pyvo still writes it.
    """
    seen: set[str] = set()
    for name, value in pairs:
        if name.upper() != "UPLOAD":
            yield name, value
            continue
        for one in _NEXT_UPLOAD.split(value):
            match = _UPLOAD.fullmatch(one)
            if match is None:
                raise BadRequest(f"UPLOAD={value[:80]!r} is not name,uri")
            if match[1].lower() in seen or match[1].upper() in CONTROL:
                raise BadRequest(f"UPLOAD names {match[1]!r}, which is taken")
            seen.add(match[1].lower())
            yield match[1], match[2]
