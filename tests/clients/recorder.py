"""What a client really sends: a pipe between it and the server that keeps the bytes of the client's side."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.waiting import PATIENCE

_REQUEST_LINE = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE) \S+ HTTP/1\.1\r\n")


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of a client. ``body`` is as it was sent: chunked when it was."""

    line: str
    headers: Message
    body: bytes


class Recorder:
    """Listens on a port of its own; the server makes its addresses from the Host that it is asked by."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._streams: list[_Stream] = []
        self._order = itertools.count()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for one in (self._listener, *self._open):
            one.close()

    @property
    def sent(self) -> list[Sent]:
        """Every request so far, in the order in which they began to come."""
        found = [one for stream in list(self._streams) for one in _requests(stream)]
        return [sent for _, sent in sorted(found, key=lambda one: one[0])]

    @property
    def lines(self) -> list[str]:
        """Methods and paths."""
        return [sent.line for sent in self.sent]

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            stream = _Stream(self._order)
            self._streams.append(stream)
            self._start(_pump, client, server, stream)
            self._start(_pump, server, client, None)


class _Stream:
    """What one connection sent, and which piece of all pieces each byte came with."""

    def __init__(self, order: Iterator[int]) -> None:
        self._order = order
        self.data = bytearray()
        self.pieces: list[tuple[int, int]] = []  # where it begins, its number

    def add(self, data: bytes) -> None:
        self.pieces.append((len(self.data), next(self._order)))
        self.data += data


def _pump(source: socket.socket, target: socket.socket, kept: _Stream | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept.add(data)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _requests(stream: _Stream) -> Iterator[tuple[int, Sent]]:
    data, pieces = bytes(stream.data), list(stream.pieces)
    starts = [match.start() for match in _REQUEST_LINE.finditer(data)]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        number = max(number for begin, number in pieces if begin <= start)
        head, _, body = data[start:end].partition(b"\r\n\r\n")
        line, _, fields = head.decode("latin-1").partition("\r\n")
        yield number, Sent(line.removesuffix(" HTTP/1.1"), Parser().parsestr(fields), body)
