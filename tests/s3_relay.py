"""A relay of HTTP before a real S3 server: it notes every request, and can answer in the server's place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPConnection
from urllib.parse import parse_qs, urlsplit

from flask import Flask, Response, request

from tests.waiting import PATIENCE

_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
_METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]


class S3Relay:
    """The application. What is signed is the host that was asked, which goes on with the request."""

    def __init__(self, endpoint: str) -> None:
        self._behind = urlsplit(endpoint)
        self._lock = threading.Lock()
        self.before: Callable[[str], Response | None] = lambda _: None
        """Asked first with the request in a word, `step`; its answer, if any, is given at once."""
        self.after: Callable[[str], Response | None] = lambda _: None
        """Asked when the server has answered; its answer, if any, is given instead."""
        self.steps: list[str] = []
        """What the server behind was asked, in a word each."""

    def app(self) -> Flask:
        app = Flask("relay")
        app.add_url_rule("/", view_func=self._relay, methods=_METHODS)
        app.add_url_rule("/<path:_path>", view_func=self._relay, methods=_METHODS)
        return app

    def parts(self) -> list[str]:
        """The numbers of the parts that were PUT, as they came."""
        return [word for step, _, word in (one.partition(" ") for one in self.steps) if step == "part"]

    def _relay(self, _path: str = "") -> Response:
        step = _step()
        body = request.get_data()
        said = self.before(step)
        if said is not None:
            return said
        with self._lock:
            self.steps.append(step)
        connection = HTTPConnection(self._behind.hostname or "", self._behind.port, timeout=PATIENCE)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            connection.request(request.method, request.environ["RAW_URI"], body, headers)
            answer = connection.getresponse()
            content = answer.read()
            given = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            # In a list, for the length that stands in the answer to HEAD is not the content's.
            return self.after(step) or Response([content], answer.status, given)
        finally:
            connection.close()


def _step() -> str:
    """The request in a word: ``part N``, ``begin``, ``complete``, else the method."""
    query = parse_qs(request.query_string.decode(), keep_blank_values=True)
    if "partNumber" in query:
        return f"part {query['partNumber'][0]}"
    if request.method == "POST" and "uploads" in query:
        return "begin"
    if request.method == "POST" and "uploadId" in query:
        return "complete"
    return request.method
