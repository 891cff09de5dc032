"""A server that the tests script answer by answer: for what a good server never does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.waiting import PATIENCE
from uws_client.connection import Connection


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``cut`` breaks the connection off after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Answerer = Callable[[Asked], Reply | bytes | str]


class Standin:
    """The server; ``on`` says what it answers, ``asked`` what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], Answerer] = {}
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, parts.path, parse_qs(parts.query), self.headers, body)
                standin.asked.append(asked)
                found = standin._answers.get((self.command, parts.path))
                reply = (
                    Reply(b"no such thing", 404, {"Content-Type": "text/plain"})
                    if found is None
                    else found(asked)
                )
                if isinstance(reply, str):
                    reply = reply.encode()
                if isinstance(reply, bytes):
                    reply = Reply(reply)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in reply.headers:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
                if reply.cut is not None:
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_DELETE = do_PUT = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                # A client that hangs up early is what some tests are about.
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)  # type: ignore[arg-type]

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def on(self, method: str, path: str, answer: Answerer | Reply | bytes | str) -> None:
        self._answers[method, path] = answer if callable(answer) else lambda _: answer

    def once_each(self, method: str, path: str, *replies: Reply | bytes | str) -> None:
        """These answers in turn; the last one for ever."""
        left = list(replies)
        self.on(method, path, lambda _: left.pop(0) if len(left) > 1 else left[0])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A whole server of ours, over TCP, as the demo starts it: its base URL."""
    from scripts.demo import server

    with server(tmp_path_factory.mktemp("live")) as url:
        yield url


@pytest.fixture
def standin() -> Iterator[Standin]:
    server = Standin()
    yield server
    server.close()


@pytest.fixture
def fake_time() -> Time:
    return Time()


@pytest.fixture
def connection(standin: Standin, fake_time: Time) -> Iterator[Connection]:
    with Connection(
        standin.url, timeout=PATIENCE, sleep=fake_time.sleep, clock=fake_time.clock
    ) as connection:
        yield connection


def job_xml(
    phase: str,
    *,
    job_id: str = "j1",
    version: str | None = "1.1",
    results: str = "",
    info: str = "",
    error: str = "",
) -> str:
    said = f' version="{version}"' if version else ""
    return (
        '<uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:uwsc="urn:uwscustom"{said}>'
        f'<uws:jobId>{job_id}</uws:jobId><uws:ownerId xsi:nil="true"/><uws:phase>{phase}</uws:phase>'
        '<uws:startTime xsi:nil="true"/><uws:endTime xsi:nil="true"/>'
        '<uws:executionDuration>0</uws:executionDuration><uws:destruction xsi:nil="true"/>'
        f"<uws:results>{results}</uws:results>{error}"
        + (f"<uws:jobInfo>{info}</uws:jobInfo>" if info else "")
        + "</uws:job>"
    )


def result_xml(result_id: str, href: str, more: str = "") -> str:
    return f'<uws:result id="{result_id}" xlink:href="{href}" {more}/>'
