"""``/storage/v1`` as it is served for real: gunicorn with gevent workers, over TCP."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, until
from uws_server.storage.base import NotStored
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links

SECRET = b"a secret of the test"
DATA = bytes(range(256)) * 4000
KEY = "jobs/x/1/results/tä ble.ecsv"

APP = """
from pathlib import Path
from flask import Flask
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
from uws_server.web.storage import beside_greenlets, storage_blueprint

links = Links({secret!r})
app = Flask("storage")
app.config["MAX_CONTENT_LENGTH"] = 1000  # the application's own limit is for forms
store = FileStore(Path({root!r}), links, beside_greenlets)
app.register_blueprint(storage_blueprint(store, links, patience=10))
"""


@dataclass
class Route:
    """A running server, and the store that it serves."""

    port: int
    store: FileStore
    links: Links
    tmp: Path

    def ask(
        self, method: str, url: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(
                method, url, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def send(self, request: bytes) -> bytes:
        """Raw bytes, then no more; the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer

    def keys(self) -> list[str]:
        return [stored.key for stored in self.store.list("")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Route]:
    top = tmp_path_factory.mktemp("route")
    (top / "route_app.py").write_text(APP.format(secret=SECRET, root=str(top / "store")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            f"{sys.executable} -m gunicorn -k gevent -w 1 --log-level warning -b fd://{listener.fileno()} "
            f"--chdir {top} route_app:app".split(),
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        try:
            links = Links(SECRET)
            yield Route(
                listener.getsockname()[1], FileStore(top / "store", links), links, top / "store" / "tmp"
            )
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def route(server: Route) -> Route:
    server.store.delete("jobs")
    server.store.put(KEY, DATA)
    return server


def get(route: Route) -> str:
    return route.store.sign("GET", KEY, 60)


@pytest.mark.covers("3:results-head")
def test_get_and_head(route: Route) -> None:
    stored = route.store.head(KEY)
    for method, body in (("GET", DATA), ("HEAD", b"")):
        status, headers, content = route.ask(method, get(route))
        assert (status, content) == (200, body)
        assert headers["content-length"] == str(len(DATA))
        assert headers["etag"] == f'"{stored.etag}"'
        assert headers["accept-ranges"] == "bytes"
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-security-policy"] == "sandbox"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.covers("3:results-range")
@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=1000-", 1000, len(DATA)),
        ("bytes=-5", len(DATA) - 5, len(DATA)),
        ("bytes=-99999999", 0, len(DATA)),
        (f"bytes={len(DATA) - 1}-999999999", len(DATA) - 1, len(DATA)),
        ("bytes=300000-900000", 300000, 900001),
    ],
)
def test_ranges(route: Route, wanted: str, start: int, end: int) -> None:
    status, headers, content = route.ask("GET", get(route), Range=wanted)
    assert status == 206
    assert content == DATA[start:end]
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    assert headers["content-length"] == str(end - start)
    status, headers, content = route.ask("HEAD", get(route), Range=wanted)
    assert (status, content, headers["content-length"]) == (206, b"", str(end - start))


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=x-y", "bytes=5-2", "nonsense", "bytes="]
)
def test_ranges_that_are_answered_with_everything(route: Route, wanted: str) -> None:
    status, _, content = route.ask("GET", get(route), Range=wanted)
    assert (status, content) == (200, DATA)


@pytest.mark.parametrize("wanted", [f"bytes={len(DATA)}-", "bytes=999999999-9999999999"])
def test_ranges_beyond_the_end(route: Route, wanted: str) -> None:
    status, headers, content = route.ask("GET", get(route), Range=wanted)
    assert status == 416
    assert headers["content-range"] == f"bytes */{len(DATA)}"
    assert content.startswith(b"The object has")


def test_conditions(route: Route) -> None:
    etag = f'"{route.store.head(KEY).etag}"'
    status, headers, content = route.ask("GET", get(route), If_None_Match=etag)
    assert (status, content, headers["etag"]) == (304, b"", etag)
    assert route.ask("GET", get(route), If_None_Match='"other"')[0] == 200
    assert route.ask("GET", get(route), Range="bytes=0-9", If_Range=etag)[0] == 206
    assert route.ask("GET", get(route), Range="bytes=0-9", If_Range='"other"')[0] == 200
    assert route.ask("GET", get(route), Range="bytes=0-9", If_Range="Mon, 01 Jan 2024 00:00:00 GMT")[0] == 200


def test_an_empty_object(route: Route) -> None:
    route.store.put("jobs/empty", b"")
    link = route.store.sign("GET", "jobs/empty", 60)
    assert route.ask("GET", link)[::2] == (200, b"")
    assert route.ask("GET", link, Range="bytes=0-")[0] == 416


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_put(route: Route, size: int) -> None:
    link = route.store.sign("PUT", "jobs/new/ü", 60, size)
    assert route.ask("PUT", link, bytes(size))[::2] == (200, b"")
    assert b"".join(route.store.read("jobs/new/ü")) == bytes(size)


@pytest.mark.parametrize("size", [0, 1, 600_000])
def test_a_put_replaces_nothing(route: Route, size: int) -> None:
    """The same again succeeds, as the first reply may have been lost; all else leaves what is there."""
    content = os.urandom(size)
    link = route.store.sign("PUT", "jobs/new", 60, size + 1)
    first = route.ask("PUT", link, content)
    again = route.ask("PUT", link, content)
    assert (again[0], again[1]["etag"]) == (200, first[1]["etag"])
    others = [content + b"x", content[:-1], content[:-1] + bytes([content[-1] ^ 1]) if content else b"y"]
    for other in others:
        if other != content:
            refused(route.ask("PUT", link, other), 412)
    assert b"".join(route.store.read("jobs/new")) == content
    assert list(route.tmp.iterdir()) == []


def test_of_two_puts_at_once_one_stands(route: Route) -> None:
    link = route.store.sign("PUT", "jobs/new", 60)
    request = f"PUT {link} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode()
    with socket.create_connection(("127.0.0.1", route.port), timeout=PATIENCE) as slow:
        slow.sendall(request)
        until(lambda: list(route.tmp.iterdir()), "the beginning of the file")
        assert route.ask("PUT", link, b"quick")[0] == 200
        slow.sendall(bytes(96))
        assert slow.recv(12) == b"HTTP/1.1 503"  # and when it is tried again:
    refused(route.ask("PUT", link, b"half" + bytes(96)), 412)
    assert b"".join(route.store.read("jobs/new")) == b"quick"
    assert list(route.tmp.iterdir()) == []


def test_put_in_chunks(route: Route) -> None:
    link = route.store.sign("PUT", "jobs/new", 60, 300_000)
    assert route.ask("PUT", link, (bytes(1000) for _ in range(300)))[0] == 200
    assert route.store.head("jobs/new").size == 300_000


@pytest.mark.covers("3:bad-too-large")
def test_put_over_the_limit(route: Route) -> None:
    link = route.store.sign("PUT", "jobs/new", 60, 1000)
    told = f"PUT {link} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n".encode()
    assert route.send(told).startswith(b"HTTP/1.1 413 ")  # before any of the body
    chunked = f"PUT {link} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n".encode()
    answer = route.send(chunked + bytes(1001) + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"\r\n\r\nThe content is longer than the 1000 bytes that this link permits.\n")
    assert route.keys() == [KEY]
    assert list(route.tmp.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        "Content-Length: 1000\r\n\r\nonly this",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        "\r\n",
    ],
)
def test_put_that_stops_in_the_middle(route: Route, body: str) -> None:
    link = route.store.sign("PUT", "jobs/new", 60, 1000)
    answer = route.send(f"PUT {link} HTTP/1.1\r\nHost: x\r\n{body}".encode())
    assert answer[:12] in {b"", b"HTTP/1.1 400", b"HTTP/1.1 411"}
    until(lambda: list(route.tmp.iterdir()) == [], "an empty directory")
    assert route.keys() == [KEY]


@pytest.mark.covers("3:bad-slow-part")
def test_put_whose_rest_never_comes(route: Route) -> None:
    link = route.store.sign("PUT", "jobs/new", 60, 1000)
    with socket.create_connection(("127.0.0.1", route.port), timeout=PATIENCE) as connection:
        connection.sendall(f"PUT {link} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf".encode())
        with connection.makefile("rb") as answer:
            said = answer.read()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert said.endswith(b"\r\n\r\nThe body did not come within 10 s; nothing was stored.\n")
    assert route.keys() == [KEY]
    assert list(route.tmp.iterdir()) == []


def test_put_whose_client_vanishes(route: Route) -> None:
    link = route.store.sign("PUT", "jobs/new", 60)
    with socket.create_connection(("127.0.0.1", route.port)) as connection:
        connection.sendall(f"PUT {link} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        until(lambda: list(route.tmp.iterdir()), "the beginning of the file")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    until(lambda: list(route.tmp.iterdir()) == [], "an empty directory")
    assert route.keys() == [KEY]


def refused(answer: tuple[int, dict[str, str], bytes], status: int) -> None:
    """Plain text, one sentence."""
    assert answer[0] == status
    assert answer[1]["uws-answer"] == "own"  # no proxy's word
    assert answer[1]["content-type"] == "text/plain; charset=utf-8"
    assert answer[2].count(b"\n") == 1
    assert answer[2].endswith(b".\n")
    assert b"Traceback" not in answer[2]


def test_links_are_checked(route: Route) -> None:
    link = get(route)
    path, _, query = link.partition("?")
    refused(route.ask("GET", path), 403)
    refused(route.ask("GET", link[:-1] + ("0" if link[-1] != "0" else "1")), 403)
    refused(route.ask("PUT", link, b"x"), 403)
    refused(route.ask("GET", f"/storage/v1/jobs/other?{query}"), 403)
    refused(route.ask("GET", route.store.sign("PUT", KEY, 60)), 403)
    refused(route.ask("GET", route.store.sign("GET", KEY, -1)), 403)
    refused(route.ask("GET", Links(b"another secret!!").sign("GET", KEY, 60)), 403)
    refused(route.ask("GET", path + "?expires=x&limit=%00%0a&signature=%ff%fe%c3%a9"), 403)
    assert b"expired" in route.ask("GET", route.store.sign("GET", KEY, -1))[2]
    assert route.ask("DELETE", link)[0] == 405
    assert b"".join(route.store.read(KEY)) == DATA


def test_what_is_not_there(route: Route) -> None:
    refused(route.ask("GET", route.store.sign("GET", "jobs/none", 60)), 404)
    refused(route.ask("GET", route.store.sign("GET", "jobs/x", 60)), 404)


@pytest.mark.covers("3:bad-path")
@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "jobs/../../x",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc/passwd",
        "jobs//x",
        "%00",
    ],
)
def test_paths_that_lead_out(route: Route, path: str) -> None:
    for method in ("GET", "PUT"):
        query = f"expires={int(time.time() * 1000) + 60000}&method={method}&limit=&signature={'0' * 64}"
        request = f"{method} /storage/v1/{path}?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        answer = route.send(request.encode())
        assert answer[:12] in {b"HTTP/1.1 403", b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 308"}, answer
        assert b"root:" not in answer
    assert route.keys() == [KEY]


def test_even_a_signed_path_leads_nowhere(route: Route) -> None:
    """The store refuses such keys itself, should anybody ever sign one."""
    for key in ("a/../../x", "..", "a/./b"):
        refused(route.ask("PUT", route.links.sign("PUT", key, 60), b"x"), 400)
        refused(route.ask("GET", route.links.sign("GET", key, 60)), 400)
    with pytest.raises(NotStored):
        route.store.head("x")


def test_a_slow_put_holds_up_nobody(route: Route) -> None:
    """One worker, one thread: while a body dribbles in and another is synced, reads are answered."""
    link = route.store.sign("PUT", "jobs/slow", 60)
    big = route.store.sign("PUT", "jobs/big", 60)
    with socket.create_connection(("127.0.0.1", route.port)) as slow:
        slow.sendall(f"PUT {link} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        until(lambda: list(route.tmp.iterdir()), "the beginning of the file")
        uploading = threading.Thread(target=route.ask, args=("PUT", big, bytes(50_000_000)))
        uploading.start()
        while uploading.is_alive():
            assert route.ask("GET", get(route), Range="bytes=0-9")[0] == 206
        uploading.join()
        assert route.store.head("jobs/big").size == 50_000_000
        slow.sendall(bytes(96))
        assert slow.recv(12) == b"HTTP/1.1 200"
    assert route.store.head("jobs/slow").size == 100
