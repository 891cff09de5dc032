"""A request with a body, read whichever way it was sent.

Names come in any case (DALI-06), from the query string, from a urlencoded, a multipart or a JSON body
(UWS-55), and repeated ones stay repeated (UWS-64). Files beyond a quarter of a megabyte go to
a temporary file, so that memory stays bounded. Whatever cannot be read is refused with one sentence and a
4xx; nothing here knows what a parameter means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Request
from werkzeug.http import parse_options_header

from uws_server.domain.errors import TooLarge, WrongType
from uws_server.service.jobs import RequestLimits
from uws_server.web.incoming.body import chunks, whole
from uws_server.web.incoming.documents import document_of, scalar
from uws_server.web.incoming.multipart import read_multipart
from uws_server.web.incoming.said import Said, check_name
from uws_server.web.incoming.urlencoded import pairs_of, query_pairs
from uws_server.web.parts import Bounds

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"


@contextmanager
def reading(request: Request, limits: RequestLimits, bounds: Bounds, files: bool = False) -> Iterator[Said]:
    """What a request with a body says: its query string first, then its body.

    Files stay readable until the end of the ``with`` block; ``files`` says whether there may be any that
    count, so that the body may be as large as they are.

    :raises BadRequest: it cannot be understood.
    :raises TooLarge: too many bytes, or too many parameters.
    :raises WrongType: a body of another type.
    :raises TooSlow: the body does not come.
    """
    said = Said(query_pairs(request.environ, limits.parameters))
    content_type = request.environ.get("CONTENT_TYPE", "")
    try:
        if content_type.startswith(FORM):
            said.pairs += pairs_of(whole(request, bounds.body_bytes, bounds), limits.parameters)
        elif content_type:
            _read_typed(said, request, content_type, limits, bounds, files)
        elif whole(request, bounds.body_bytes, bounds):
            raise WrongType(f"a body needs a Content-Type; taken are {FORM}, {MULTIPART} and {JSON}")
        if len(said.pairs) > limits.parameters:
            raise TooLarge(f"more than {limits.parameters} parameters are not taken")
        for name in _names(said):
            check_name(name, limits.name_chars)
        yield said
    finally:
        said.close()


def _names(said: Said) -> Iterator[str]:
    yield from (name for name, _ in said.pairs)
    yield from said.document or ()
    inner = (said.document or {}).get("parameters")
    if isinstance(inner, dict):
        yield from inner


def _read_typed(
    said: Said, request: Request, content_type: str, limits: RequestLimits, bounds: Bounds, files: bool
) -> None:
    media_type, options = parse_options_header(content_type)
    if media_type == MULTIPART:
        pieces = chunks(request, bounds.upload_bytes if files else bounds.body_bytes, bounds)
        read_multipart(said, pieces, options, limits)
    elif media_type == FORM:
        said.pairs += pairs_of(whole(request, bounds.body_bytes, bounds), limits.parameters)
    elif media_type == JSON:
        said.document = document_of(whole(request, bounds.body_bytes, bounds), limits)
        said.pairs += [
            (name, text) for name, value in said.document.items() if (text := scalar(value)) is not None
        ]
    else:
        raise WrongType(
            f"a body of type {media_type[:80]!r} is not taken; send {FORM}, {MULTIPART} or {JSON}"
        )
