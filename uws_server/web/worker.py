"""How gunicorn serves one request in a greenlet: its gevent worker, with fewer system calls.

gunicorn sends the header of an answer and its body apart, and writes an access record that nobody
reads whenever logging is configured at all. Together they cost more than rendering a job does.
"""

from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]


class QuietLog(Logger):  # type: ignore[misc]
    """A log without a line for each request; the proxy in front has that."""

    def access(self, *_: Any) -> None:
        """Nothing."""


class Worker(GeventWorker):  # type: ignore[misc]
    """The gevent worker; what it answers leaves in as few packets as it can.

    Connections between two requests do not delay its end: many clients leave theirs open.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._resting: set[Any] = set()  # connections in which no request is being answered

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection."""
        self._resting.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._resting.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """One request. What is held back at its end is sent."""
        self._resting.discard(sock)
        held = Held(sock)
        try:
            return super().handle_request(listener_name, req, held, addr)
        finally:
            held.flush()
            self._resting.add(sock)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What gunicorn refuses itself is refused as everything else is: in one plain sentence."""
        super().handle_error(req, Refusal(client), addr, exc)

    def notify(self) -> None:
        """Once a second, also while stopping: no further request is waited for then."""
        super().notify()
        if not self.alive:
            for client in tuple(self._resting):
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RD)


class Refusal:
    """A socket that sends gunicorn's page about a bad request as a sentence, with the status of a refusal."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, page: bytes) -> None:
        """Send the sentence for the page's status."""
        status = int(page.split(None, 2)[1])
        if status not in _SENTENCES:
            status = 400  # such as 501 for a transfer coding: the client's doing
        sentence = _SENTENCES[status]
        self._sock.sendall(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase.upper()}\r\n"
            "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
            f"Content-Length: {len(sentence)}\r\n\r\n{sentence}".encode()
        )


_SENTENCES = {
    400: "this is not an HTTP request that can be understood",
    403: "this request is not permitted",
    414: "the request line is longer than the server takes",
    417: "the only expectation that is met is 100-continue",
    431: "the header has more or longer fields than the server takes",
    500: "something went wrong here; the server's log says more",
}


class Held:
    """A socket that keeps the first thing sent until the second, so that header and body go together.

    The first is the header; whatever follows it is sent at once, so that what is streamed keeps flowing.
    """

    __slots__ = ("_first", "_sock")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._first: bytes | None = b""

    def sendall(self, data: bytes) -> None:
        """Send, or keep the header for a moment."""
        if self._first is None:
            self._sock.sendall(data)
        elif not self._first:
            self._first = bytes(data)
        else:
            both, self._first = self._first + data, None
            self._sock.sendall(both)

    def flush(self) -> None:
        """Send what was kept."""
        if self._first:
            first, self._first = self._first, None
            self._sock.sendall(first)

    def __getattr__(self, name: str) -> Any:
        # Whoever does anything else with the socket, such as sending a file, finds the header gone ahead.
        self.flush()
        return getattr(self._sock, name)
