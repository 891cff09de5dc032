"""Requests that no decent client sends: chunks that are none, headers that would move the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from tests.web.test_serving import FORM, Server, start, stop

covers = pytest.mark.covers


@pytest.fixture(scope="module")
def server(redis_servers: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(redis_servers("redis"), tmp_path_factory.mktemp("strange"))
    yield running
    stop(running)


def answers(server: Server, sent: bytes) -> bytes:
    """Everything that comes back until the server closes the connection."""
    with server.socket() as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


@covers("3:bad-plain-sentence")
@pytest.mark.parametrize(
    "chunks",
    [
        b"g\r\n",
        b"-1\r\n",
        b"0x7\r\nscale=1\r\n0\r\n\r\n",
        b"7 \r\nscale=1\r\n0\r\n\r\n",
        b"7\r\nscale=1234\r\n0\r\n\r\n",
        b"7\r\nscale=1\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"\r\n",
    ],
)
@pytest.mark.parametrize("target", ["POST /stack/async", "PUT {job}/parameters/mask"])
def test_chunks_that_are_none_are_refused(server: Server, target: str, chunks: bytes) -> None:
    path = server.create()
    before = server.ask("GET", path)[2]
    received = answers(
        server,
        f"{target.format(job=path)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM['Content-Type']}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
        + chunks
        + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    assert received.startswith(b"HTTP/1.1 400 ")
    # The last answer: what follows was not taken for a request.
    assert received.endswith(b"the body broke off or is malformed")
    assert server.ask("GET", path)[2] == before


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO"])
@pytest.mark.parametrize("value", ["/x", "/stack"])
def test_no_header_moves_the_application(server: Server, name: str, value: str) -> None:
    path = server.create()
    plain = server.ask("GET", path)
    moved = server.ask("GET", path, headers={name: value})
    assert (moved[0], moved[2]) == (200, plain[2])


@covers("3:bad-plain-sentence")
def test_a_large_body_holds_up_nobody(redis_servers: Callable[[str], str], tmp_path: Path) -> None:
    running = start(redis_servers("redis"), tmp_path, UWS_WEB__WORKERS="1")
    took: list[float] = []
    answer: list[int] = []
    body = b"note=" + b"%41" * 3_000_000
    sender = threading.Thread(
        target=lambda: answer.append(running.ask("POST", "/stack/async", body, FORM, timeout=PATIENCE)[0])
    )
    sender.start()
    try:
        while sender.is_alive():
            began = time.monotonic()
            assert running.ask("GET", "/healthz")[0] == 200
            took.append(time.monotonic() - began)
        assert answer == [413]
        # Else one of them waits for all of it, and nobody else comes in between.
        assert len(took) > 20, took
    finally:
        sender.join(PATIENCE)
        stop(running)
