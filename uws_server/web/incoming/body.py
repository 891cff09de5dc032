"""The bytes of a body, bounded in size and in time, whoever sends them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from flask import Request
from gevent import Timeout

from uws_server.domain.errors import BadRequest, TooLarge
from uws_server.web.errors import TooSlow
from uws_server.web.parts import Bounds

CHUNK = 64 * 1024
TURN = 4 * 1024**2
"""Bytes of a body that comes as fast as it is read, or is read again, after which others get their turn."""

_YIELD = 0.001  # s; with 0 gevent would look at who is ready already, and at no connection


def others_turn() -> None:
    """Let other requests go on before what is large here does."""
    time.sleep(_YIELD)


def chunks(request: Request, limit: int, bounds: Bounds) -> Iterator[bytes]:
    """The body of a request, piece by piece.

    :raises TooLarge: more than ``limit`` bytes.
    :raises BadRequest: it breaks off.
    :raises TooSlow: a piece does not come within ``bounds.patience``.
    """
    announced = request.content_length
    if announced is not None and announced > limit:
        raise TooLarge(f"a body of {announced} bytes is more than the {limit} taken")
    # Checked below, with a sentence of ours.
    request.max_content_length = None
    received = 0
    while announced is None or received < announced:
        chunk = piece(request, bounds.patience)
        if not chunk:
            break
        if received // TURN < (received + len(chunk)) // TURN:
            others_turn()
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"a body of more than {limit} bytes is not taken")
        yield chunk
    if announced is not None and received < announced:
        raise BadRequest("the body ended before its announced length")


def whole(request: Request, limit: int, bounds: Bounds) -> bytes:
    """The body of a request, for bodies that are small.

    :raises TooLarge: more than ``limit`` bytes.
    """
    return b"".join(chunks(request, limit, bounds))


def piece(request: Request, patience: float) -> bytes:
    """The next `CHUNK` of a request's body, or what is left of it; empty at its end.

    :raises TooSlow: it does not come within ``patience`` seconds.
    :raises BadRequest: the body breaks off.
    """
    timer = Timeout(patience)
    timer.start()
    try:
        return request.stream.read(CHUNK)
    except Timeout as timeout:
        if timeout is not timer:
            raise
        # So that the server does not wait for the rest before it takes the connection away.
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            connection.shutdown(socket.SHUT_RD)
        raise TooSlow(f"the body did not come within {patience:g} s") from None
    except Exception as error:  # each server has its own for chunks that are none
        raise BadRequest("the body broke off or is malformed") from error
    finally:
        timer.close()
