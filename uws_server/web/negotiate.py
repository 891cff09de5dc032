"""XML or JSON: XML unless the client likes JSON better (UWS-74, UWS-76, UWS-77). Never HTML."""

from __future__ import annotations

import re
from functools import lru_cache

_Q = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE)


@lru_cache(maxsize=256)
def wants_json(accept: str | None) -> bool:
    """Whether an Accept header prefers ``application/json`` to XML.

    Java clients send ``text/html, image/gif, image/jpeg, */*; q=0.2`` first and mean XML. JSON has to be
    named, or to be better liked than XML; what both match by a wildcard alone is XML.
    """
    if not accept or "json" not in accept.lower():
        return False
    best = {"json": (0.0, 0), "xml": (0.0, 0)}
    for item in accept.lower().split(","):
        media_type = item.partition(";")[0].strip()
        match = _Q.search(item)
        quality = float(match[1]) if match else 1.0
        for format_, named in (("json", {"application/json"}), ("xml", {"application/xml", "text/xml"})):
            for exact, types in (
                (2, named),
                (1, {f"{name.partition('/')[0]}/*" for name in named}),
                (0, {"*/*"}),
            ):
                if media_type in types:
                    precise, known = best[format_][1], best[format_][0]
                    # The more precise range speaks for its type; of equals, the better liked one.
                    if exact > precise or (exact == precise and quality > known):
                        best[format_] = (quality, exact)
    json, xml = best["json"], best["xml"]
    return json[0] > 0 and json > xml
