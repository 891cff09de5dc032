"""Where a process that serves no HTTP tells its operator how it is: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket

from uws_server.listening import listen
from uws_server.metrics import CONTENT_TYPE, gathered, written
from uws_server.readiness import Check, Readiness
from uws_server.settings import Settings

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 5.0


@contextlib.contextmanager
def listening(settings: Settings, checks: Mapping[str, Check]) -> Iterator[None]:
    """Answer on ``operator.port``, beside the process's work, for as long as the context lasts.

    Without a port nothing listens, nor where another process tells for this one (`metrics.gathered`).

    :raises CannotListen: the address cannot be had.
    """
    operator = settings.operator
    if not operator.port or gathered():
        yield
        return
    server = _Server(listen(operator.host, operator.port, "operator.port"), _handler(Readiness(checks)))
    threading.Thread(target=server.serve_forever, name="operator", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def handle_error(self, request: object, client_address: object) -> None:
        """A log line, not a bare traceback. A client that has gone is no news."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request at the operator's port was not answered", exc_info=error)


def _handler(readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"readiness": readiness})


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    readiness: Readiness

    def do_GET(self) -> None:
        """Answer one request."""
        answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/healthz": lambda: (200, "text/plain", b"ok\n"),
            "/readyz": self._ready,
            "/metrics": lambda: (200, CONTENT_TYPE, written()),
        }
        answer = answers.get(self.path.partition("?")[0])
        status, media_type, body = answer() if answer else (404, "text/plain", b"there is nothing here\n")
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ready(self) -> tuple[int, str, bytes]:
        said = self.readiness.answer()
        return 200 if said.ready else 503, "text/plain", ("; ".join(said.lines) + "\n").encode()

    def log_message(self, *_: object) -> None:
        """Nothing: a probe every few seconds is no news."""
