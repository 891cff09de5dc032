"""A gate between a client and a real server: it can hold every byte back, or let nobody in."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_LOOK = 0.05  # s, how often a thread looks whether it is to end


class Gate:
    """Forwards TCP to ``endpoint`` from a port of its own at the address ``host``."""

    def __init__(self, endpoint: str, host: str = "127.0.0.1") -> None:
        self.lead_to(endpoint)
        self._listening = socket.create_server((host, 0), backlog=512)
        self._listening.settimeout(_LOOK)
        self.endpoint = f"http://{host}:{self._listening.getsockname()[1]}"
        self._open = threading.Event()
        self._open.set()
        self._ended = threading.Event()
        self._refusals = 0
        self.entered = 0
        """Connections so far."""
        self.passed = 0
        """Bytes so far, both ways together."""
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lead_to(self, endpoint: str) -> None:
        """Bring whoever enters from now on to another server."""
        parts = urlsplit(endpoint)
        self._behind = parts.hostname, parts.port

    def hold(self) -> None:
        """From now on no byte goes through; connections are taken and kept."""
        self._open.clear()

    def release(self) -> None:
        """Let go what was held, and everything after it."""
        self._open.set()

    def refuse(self, connections: int = 10**9) -> None:
        """Break every connection, and this many that come."""
        self._refusals = connections
        for pair in self._pairs:
            _close(*pair)
        self._pairs.clear()

    def admit(self) -> None:
        """Refuse no more."""
        self._refusals = 0

    def end(self) -> None:
        """Close everything and wait for the threads."""
        self._ended.set()
        self._open.set()
        self.refuse()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listening.accept()
            except TimeoutError:
                continue
            self.entered += 1
            if self._refusals > 0:
                self._refusals -= 1
                # Unread bytes would make it a reset, which the client's library takes for final at times.
                client.settimeout(_LOOK)
                with contextlib.suppress(OSError):
                    while client.recv(_CHUNK):
                        pass
                _close(client)
                continue
            server = socket.create_connection(self._behind)
            self._pairs.append((client, server))
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(source, target))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                self._open.wait()
                target.sendall(chunk)
                self.passed += len(chunk)
        _close(source, target)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in it, which closing does not
        one.close()


@contextmanager
def gate(endpoint: str, host: str = "127.0.0.1") -> Iterator[Gate]:
    """A gate before a server; pods reach one at an address of their cluster."""
    between = Gate(endpoint, host)
    try:
        yield between
    finally:
        between.end()
