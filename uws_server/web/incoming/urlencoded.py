"""Names and values of a query string or of a urlencoded body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from uws_server.domain.errors import BadRequest, TooLarge
from uws_server.web.incoming.body import CHUNK, others_turn
from uws_server.web.incoming.said import Pairs

_ESCAPES = 20_000


def query_pairs(environ: Mapping[str, Any], limit: int) -> Pairs:
    """The names and values of the query string; see `pairs_of`."""
    text = environ.get("QUERY_STRING", "")
    # WSGI hands over bytes as Latin-1.
    return pairs_of(text.encode("latin-1"), limit) if text else []


def pairs_of(encoded: bytes, limit: int) -> Pairs:
    """The names and values of urlencoded text.

    :raises BadRequest: it is not UTF-8.
    :raises TooLarge: more than ``limit`` of them.
    """
    # Counted before anything is made of it: 10,000 parameters cost no more than reading them.
    if encoded.count(b"&") >= limit:
        raise TooLarge(f"more than {limit} parameters are not taken")
    try:
        if encoded.count(b"%") <= _ESCAPES:
            return parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict")
        split = (piece.replace(b"+", b" ").partition(b"=") for piece in encoded.split(b"&") if piece)
        return [(_unescaped(name), _unescaped(value)) for name, _, value in split]
    except ValueError:
        raise BadRequest("the parameters are not UTF-8") from None


def _unescaped(encoded: bytes) -> str:
    # Block by block, as the library makes a list of all escapes, seventy times what they take; and others
    # get their turn between the blocks.
    found = bytearray()
    at = 0
    while at < len(encoded):
        end = at + CHUNK
        escape = encoded.rfind(b"%", end - 2, end)
        if escape >= 0:
            end = escape
        found += unquote_to_bytes(encoded[at:end])
        at = end
        others_turn()
    return found.decode()
