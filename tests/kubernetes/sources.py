"""What jobs of the tests reach on this machine: inputs of every kind, and a count of their starts."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = b"1,2,3\n" * 100
_CHUNK = b"x" * 65536


class Sources:
    """An HTTP server for pods. ``starts`` counts what calls ``/started/JOB/ATTEMPT``.

    ``/gated/NAME`` is answered once the gate of that name is opened.
    """

    def __init__(self, host: str) -> None:
        self.starts: Counter[tuple[str, int]] = Counter()
        self.asked: Counter[str] = Counter()
        self.gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.closing = threading.Event()
        sources = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sources.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{host}:{self.server.server_port}"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """Answer one request, by its path."""
        _, what, *words = to.path.split("/")
        self.asked[to.path] += 1
        if what == "started":
            self.starts[words[0], int(words[1])] += 1
            self._send(to, 200, b"")
        elif what == "status":
            self._send(to, int(words[0]), b"no")
        elif what == "file.csv":
            self._send(to, 200, CONTENT)
        elif what == "gated":
            self._head(to, 200, len(CONTENT))
            while not (self.gates[words[0]].wait(0.2) or self.closing.is_set()):
                pass
            to.wfile.write(CONTENT)
        elif what == "endless":
            self._head(to, 200, None)
            self._pour(to)
        elif what == "large":
            self._head(to, 200, 1024**4)
            self._pour(to)
        else:
            self._send(to, 404, b"no")

    def _pour(self, to: BaseHTTPRequestHandler) -> None:
        try:
            while not self.closing.is_set():
                to.wfile.write(_CHUNK)
        except OSError:
            to.close_connection = True  # who asked has had enough

    def _send(self, to: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        self._head(to, status, len(body))
        to.wfile.write(body)

    def _head(self, to: BaseHTTPRequestHandler, status: int, length: int | None) -> None:
        to.send_response(status)
        if length is not None:
            to.send_header("Content-Length", str(length))
        to.end_headers()


@contextmanager
def serving(host: str) -> Iterator[Sources]:
    """Sources that are served from this address until the end."""
    sources = Sources(host)
    thread = threading.Thread(target=sources.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sources
    finally:
        sources.closing.set()
        sources.server.shutdown()
        thread.join()
        sources.server.server_close()
