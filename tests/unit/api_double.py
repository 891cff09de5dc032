"""An API server's lists and watches over real HTTP, told by a script what happens and what goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Document = dict[str, Any]

JOBS, PODS, EVENTS = "jobs", "pods", "events"


class ApiDouble:
    """Objects of three kinds with one version for all, as etcd has it; lists of pages, watches of news.

    ``before`` is called with the kind and "list", "page" or "watch" of each request; what it returns is sent
    instead, as (status, document), and None lets the request pass. ``take`` answers what is no GET, which is
    noted in ``written``.
    """

    def __init__(self) -> None:
        self.version = 1
        self.news = threading.Condition()
        self.objects: dict[str, dict[str, Document]] = {JOBS: {}, PODS: {}, EVENTS: {}}
        self.told: list[tuple[int, str, str, Document]] = []  # version, kind, type, object
        self.oldest = 0
        self.page = 2
        self.silent = False
        self.before: Callable[[str, str], tuple[int, Document] | None] = lambda _kind, _what: None
        self.requests: list[tuple[str, str]] = []
        self.take: Callable[[str, Document], tuple[int, Document]] = lambda _method, document: (201, document)
        self.written: list[tuple[str, Document]] = []
        self.cut = 0
        self.ending = False

    # ---- what happens

    def put(self, kind: str, document: Document) -> None:
        """An object is made or changed."""
        with self.news:
            self.version += 1
            name = document["metadata"]["name"]
            before = self.objects[kind].get(name)
            uid = (before or document)["metadata"]["uid"]
            meta = {**document["metadata"], "uid": uid, "resourceVersion": str(self.version)}
            self.objects[kind][name] = {**document, "metadata": meta}
            self._tell(kind, "MODIFIED" if before else "ADDED", self.objects[kind][name])

    def remove(self, kind: str, name: str) -> None:
        """An object is deleted."""
        with self.news:
            self.version += 1
            gone = self.objects[kind].pop(name)
            meta = {**gone["metadata"], "resourceVersion": str(self.version)}
            self._tell(kind, "DELETED", {**gone, "metadata": meta})

    def compact(self) -> None:
        """Nothing before now is told to a watch any more, and those under way end."""
        with self.news:
            self.version += 1
            self.oldest = self.version
            self.cut += 1
            self.news.notify_all()

    def drop(self) -> None:
        """All watches break off in the midst of a line."""
        with self.news:
            self.cut += 1
            self.news.notify_all()

    def set_back(self, version: int) -> None:
        """The database is restored from a copy: versions fall, and nothing is known of what came after."""
        with self.news:
            self.version, self.told, self.oldest = version, [], version
            self.cut += 1
            self.news.notify_all()

    def raw(self, kind: str, event: Document) -> None:
        """Tell watches something as it is."""
        with self.news:
            self.version += 1
            self.told.append((self.version, kind, event["type"], event["object"]))
            self.news.notify_all()

    def _tell(self, kind: str, what: str, document: Document) -> None:
        self.told.append((self.version, kind, what, document))
        self.news.notify_all()

    # ---- what is answered

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        url = urlsplit(to.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind = url.path.rpartition("/")[2]
        what = "watch" if "watch" in query else "page" if "continue" in query else "list"
        with self.news:
            self.requests.append((kind, what))
            self.news.wait_for(lambda: not self.silent or self.ending)
        instead = self.before(kind, what)
        if instead is not None:
            self._send(to, *instead)
        elif what == "watch":
            self._watch(to, kind, int(query["resourceVersion"]), float(query["timeoutSeconds"]))
        else:
            self._send(to, 200, self._page(kind, query.get("continue", "")))

    def accept(self, to: BaseHTTPRequestHandler) -> None:
        """Answer one request that is no GET."""
        document = json.loads(to.rfile.read(int(to.headers["Content-Length"])))
        self.written.append((to.command, document))
        self._send(to, *self.take(to.command, document))

    def _page(self, kind: str, token: str) -> Document:
        with self.news:
            state, start = json.loads(token) if token else (self._state(kind), 0)
            items, version = state
            more = start + self.page < len(items)
            meta = {"resourceVersion": version}
            if more:
                meta["continue"] = json.dumps((state, start + self.page))
            return {"metadata": meta, "items": items[start : start + self.page]}

    def _state(self, kind: str) -> tuple[list[Document], str]:
        return list(self.objects[kind].values()), str(self.version)

    def _watch(self, to: BaseHTTPRequestHandler, kind: str, after: int, seconds: float) -> None:
        self._head(to, 200)
        with self.news:
            cut = self.cut
        if after < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            self._line(to, {"type": "ERROR", "object": gone})
            return self._end(to)
        for _ in range(int(seconds * 10)):
            with self.news:
                if not self._next(kind, after):
                    self.news.wait(0.1)
                found = [] if self.silent else self._next(kind, after)
                if self.cut != cut or self.ending:
                    to.wfile.write(b"20\r\n" + b'{"type": "MODIFIED", "object": {')
                    to.close_connection = True
                    return None
            for version, what, document in found:
                after = version
                self._line(to, {"type": what, "object": document})
        with self.news:
            bookmark = {"metadata": {"resourceVersion": str(after)}}
        self._line(to, {"type": "BOOKMARK", "object": bookmark})
        return self._end(to)

    def _next(self, kind: str, after: int) -> list[tuple[int, str, Document]]:
        return [(v, what, doc) for v, of, what, doc in self.told if of == kind and v > after]

    def _line(self, to: BaseHTTPRequestHandler, document: Document) -> None:
        line = json.dumps(document).encode() + b"\n"
        to.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _end(self, to: BaseHTTPRequestHandler) -> None:
        to.wfile.write(b"0\r\n\r\n")

    def _send(self, to: BaseHTTPRequestHandler, status: int, document: Document) -> None:
        self._head(to, status)
        self._line(to, document)
        self._end(to)

    def _head(self, to: BaseHTTPRequestHandler, status: int) -> None:
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()


@contextmanager
def serving(directory: Path) -> Iterator[tuple[ApiDouble, Path]]:
    """A double that is served, and the kubeconfig that leads there."""
    double = ApiDouble()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                double.answer(self)
            except OSError:
                self.close_connection = True  # who asked has gone

        def do_POST(self) -> None:
            double.accept(self)

        def do_PATCH(self) -> None:
            double.accept(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "double", "cluster": {"server": address}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "nobody"}}],
        "current-context": "double",
    }
    file = directory / "kubeconfig"
    file.write_text(json.dumps(config))
    try:
        yield double, file
    finally:
        with double.news:
            double.ending = True
            double.silent = False
            double.news.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()
