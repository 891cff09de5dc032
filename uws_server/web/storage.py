"""Our own signed route to stored objects, ``/storage/v1/…``, and the way any object is answered over HTTP.

Who holds a valid link may do what it says and nothing else; no identity is asked for. Every error
is plain text of one sentence.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from werkzeug.datastructures import ETags, IfRange
from werkzeug.http import http_date

from uws_server.domain.errors import BadRequest
from uws_server.domain.wire import OWN_WORD
from uws_server.service.results import Readable
from uws_server.storage.base import Exists, NotStored, ObjectStore, StorageUnavailable, Stored, TooLong
from uws_server.storage.links import ROUTE, BadLink, Links
from uws_server.web.errors import TooSlow
from uws_server.web.incoming.body import piece

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

_PIECES = 4  # of a body that are stored at once
_THREADS = 64  # steps that wait at once; one more waits for one of them
# What a user stored must not run in a browser with our origin, whatever it is.
_SANDBOX = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}


class _Differs(Exception):
    """What is PUT is not what is there."""


class _Broken(Exception):
    """The body of a PUT ended before its time."""


def storage_blueprint(store: ObjectStore, links: Links, patience: float = 30) -> Blueprint:
    """The routes GET, HEAD and PUT for the links that ``links`` signs to the objects in ``store``.

    ``patience`` is how many seconds each 64 KiB of a body may take.
    """
    blueprint = Blueprint("storage", __name__, url_prefix=ROUTE.rstrip("/"))

    @blueprint.get("/<path:key>")
    def get(key: str) -> Response:
        _verify(links, key)
        return object_response(store, store.head(key))

    @blueprint.put("/<path:key>")
    def put(key: str) -> Response:
        limit = _verify(links, key)
        # The link says how long the body may be, not the application's limit for forms. None would mean that.
        request.max_content_length = sys.maxsize
        length = request.content_length
        if length is None and "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
            return _refusal(411, "The length of the content is missing.")
        if limit is not None and length is not None and length > limit:
            return _too_long(limit)
        try:
            stored = _put_once(store, key, _body(length, patience), limit)
        except TooLong:
            return _too_long(limit)
        except TooSlow as error:
            return _closing(_refusal(408, f"{str(error).capitalize()}; nothing was stored."))
        except _Broken:
            return _refusal(400, "The content ended before its time; nothing was stored.")
        except _Differs:
            return _refusal(412, "Other content is stored under this name already; it stays.")
        response = Response(status=200)
        response.set_etag(stored.etag)
        return response

    blueprint.register_error_handler(BadLink, lambda error: _refusal(403, str(error)))
    blueprint.register_error_handler(NotStored, lambda _: _refusal(404, "There is no such object."))
    blueprint.register_error_handler(ValueError, lambda _: _refusal(400, "This is no key of an object."))
    blueprint.register_error_handler(StorageUnavailable, _unavailable)
    blueprint.register_error_handler(Exists, lambda _: _later("The same object is just being stored"))
    return blueprint


def _put_once(store: ObjectStore, key: str, content: Iterator[bytes], limit: int | None) -> Stored:
    """Store an object that is not there yet. The same bytes again are no fault: the first reply may be lost.

    :raises _Differs: other bytes are there.
    :raises Exists: somebody else stored it meanwhile.
    """
    try:
        stored = store.head(key)
    except NotStored:
        return store.put(key, content, limit, create=True)
    at = 0
    for chunk in content:
        if b"".join(store.read(key, at, at + len(chunk))) != chunk:
            raise _Differs
        at += len(chunk)
    if at != stored.size:
        raise _Differs
    return stored


def object_response(
    store: Readable, stored: Stored, media_type: str = "application/octet-stream"
) -> Response:
    """The answer to the current GET or HEAD for one object: whole, one range of it, or 304.

    Several ranges in one request are answered with the whole object, as HTTP allows.
    """
    if request.if_none_match.contains_weak(stored.etag):
        return _described(Response(status=304), stored)
    start, end = 0, stored.size
    status = 200
    if (
        request.range is not None
        and request.range.units == "bytes"
        and _range_holds(request.if_range, stored)
    ):
        ranges = request.range.ranges
        if len(ranges) == 1:
            start, end = _bounds(ranges[0], stored.size)
            if start >= end:
                refused = plain(416, f"The object has {stored.size} bytes; there is nothing in that range.")
                refused.headers["Content-Range"] = f"bytes */{stored.size}"
                return refused
            status = 206
    body = () if request.method == "HEAD" else store.read(stored.key, start, end)
    response = _described(Response(body, status, mimetype=media_type, direct_passthrough=True), stored)
    response.headers["Content-Length"] = str(end - start)
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
    return response


def plain(status: int, sentence: str) -> Response:
    """An error as every client can show it."""
    return Response(f"{sentence}\n", status, mimetype="text/plain", headers=_SANDBOX)


def _refusal(status: int, sentence: str) -> Response:
    """Our own word on a link, for agents, who meet others' on the way."""
    response = plain(status, sentence)
    response.headers.set(*OWN_WORD)
    return response


def beside_greenlets(step: Callable[[], None]) -> None:
    """Run a step that waits for a disk or an object store in a thread, so that other requests go on.

    The threads are not gevent's own: a store that hangs would take those from everything else.
    """
    _threads().apply(step)


@functools.cache
def _threads() -> ThreadPool:
    from gevent.threadpool import ThreadPool

    return ThreadPool(_THREADS)


def _verify(links: Links, key: str) -> int | None:
    argument = request.args.get
    return links.verify(
        request.method, key, argument("expires", ""), argument("limit", ""), argument("signature", "")
    )


def _described(response: Response, stored: Stored) -> Response:
    response.set_etag(stored.etag)
    response.headers["Last-Modified"] = http_date(stored.modified // 1000)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers.update(_SANDBOX)
    return response


def _bounds(wanted: tuple[int, int | None], size: int) -> tuple[int, int]:
    """Where a range begins and ends in an object of this size; a negative begin counts from the end."""
    start, end = wanted
    if start < 0:
        return max(0, size + start), size
    return start, size if end is None else min(end, size)


def _range_holds(condition: IfRange, stored: Stored) -> bool:
    """Whether the range still refers to the object that the client has a part of."""
    if condition.etag is not None:
        return ETags([stored.etag]).contains(condition.etag)
    return condition.date is None


def _body(length: int | None, patience: float) -> Iterator[bytes]:
    """The request's body in chunks; raises when it is cut off."""
    received = 0
    while True:
        try:
            chunk = b"".join(piece(request, patience) for _ in range(_PIECES))
        except BadRequest as error:
            raise _Broken from error
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if length is not None and received != length:
        raise _Broken


def _too_long(limit: int | None) -> Response:
    return _closing(_refusal(413, f"The content is longer than the {limit} bytes that this link permits."))


def _closing(response: Response) -> Response:
    # The rest of the body is still on its way; reading it only to drop it helps nobody.
    response.headers["Connection"] = "close"
    return response


def _unavailable(_: StorageUnavailable) -> Response:
    return _later("The storage does not answer just now", 5)


def _later(sentence: str, seconds: int = 1) -> Response:
    response = plain(503, f"{sentence}; try again.")
    response.headers["Retry-After"] = str(seconds)
    return response
