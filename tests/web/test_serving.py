"""gunicorn with greenlets on a real Redis, over TCP: WAIT across processes, bodies that stall."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import uws_server
from tests.waiting import PATIENCE, until
from tests.web.world import validate

covers = pytest.mark.covers

NOT_ITS_END = 50.0
"""Seconds: what took less did not wait to the end of its WAIT, which is 100 s."""
TEMPLATES = Path(__file__).with_name("templates")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Server:
    """A web server of two processes."""

    port: int
    process: subprocess.Popen[bytes]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def create(self, body: bytes = b"scale=1") -> str:
        status, headers, text = self.ask("POST", "/stack/async", body, FORM)
        assert status == 303, text
        return headers["Location"].removeprefix(f"http://127.0.0.1:{self.port}")

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def start(url: str, data: Path, **settings: str) -> Server:
    port = free_port()
    environment = {
        **os.environ,
        "UWS_DATA": str(data),
        "UWS_REDIS__URL": url,
        "UWS_WEB__PORT": str(port),
        "UWS_WEB__WORKERS": "2",
        "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(TEMPLATES)]),
        **settings,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:uws_server.web.gunicorn"]
    with (data / "web.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    server = Server(port, process)

    def ready() -> bool:
        assert process.poll() is None, (data / "web.log").read_text()
        try:
            return server.ask("GET", "/readyz", timeout=30)[0] == 200
        except OSError:
            return False

    until(ready, lambda: f"a server that is ready: {(data / 'web.log').read_text()}")
    return server


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(PATIENCE)
        raise


@pytest.fixture(scope="module")
def server(redis_servers: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(redis_servers("redis"), tmp_path_factory.mktemp("web"), UWS_WEB__WAIT_SECONDS="100")
    yield running
    stop(running)


@covers("UWS-44", "UWS-50", "UWS-51", "3:wait-across-processes", "3:wait-events")
def test_waiters_in_both_processes_are_woken_at_once(server: Server) -> None:
    path = server.create()
    waiters = 200
    with ThreadPoolExecutor(waiters) as pool:
        held = [pool.submit(server.ask, "GET", f"{path}?WAIT=-1") for _ in range(waiters)]
        # All of them are parked once they do not answer, while others are answered quickly.
        time.sleep(1)
        assert not any(one.done() for one in held)
        began = time.monotonic()
        assert server.ask("GET", f"{path}/phase")[2] == b"PENDING"
        assert time.monotonic() - began < NOT_ITS_END
        began = time.monotonic()
        assert server.ask("POST", f"{path}/phase", b"PHASE=RUN", FORM)[0] == 303
        for one in held:
            status, _, body = one.result(PATIENCE)
            assert status == 200
            assert b"QUEUED" in body
            validate(body)
        assert time.monotonic() - began < NOT_ITS_END


@covers("UWS-44", "UWS-48")
def test_wait_ends_over_tcp(server: Server) -> None:
    path = server.create()
    began = time.monotonic()
    assert server.ask("GET", f"{path}?WAIT=1&PHASE=PENDING")[0] == 200
    assert 0.9 < time.monotonic() - began < NOT_ITS_END
    began = time.monotonic()
    assert server.ask("HEAD", f"{path}?WAIT=-1")[0] == 200
    assert time.monotonic() - began < NOT_ITS_END


@covers("UWS-59", "UWS-56", "DALI-03")
def test_a_chunked_body_with_a_quoted_boundary(server: Server) -> None:
    boundary = "--MULTIPART==x"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="UPLOAD"\r\n\r\nmask,param:t\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n{"x" * 200_000}\r\n'
        f"--{boundary}--\r\n"
    ).encode()
    with server.socket() as connection:
        connection.sendall(
            b"POST /stack/async HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            + f'Content-Type: multipart/form-data; boundary="{boundary}"\r\n\r\n'.encode()
        )
        for at in range(0, len(body), 7000):
            piece = body[at : at + 7000]
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 303")
    location = re.search(r"Location: http://localhost(\S+)", answer)
    assert location is not None
    assert server.ask("GET", f"{location[1]}/parameters/mask")[2] == b"x" * 200_000


@covers("3:bad-slow-part", "UWS-09")
@pytest.mark.parametrize("kind", ["form", "multipart", "chunked", "put"])
def test_a_part_that_never_comes(redis_servers: Callable[[str], str], patient: Server, kind: str) -> None:
    path = patient.create()
    head = {
        "form": f"POST /stack/async HTTP/1.1\r\nContent-Type: {FORM['Content-Type']}\r\n"
        "Content-Length: 100\r\n",
        "multipart": "POST /stack/async HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        "Content-Length: 1000\r\n",
        "chunked": f"POST /stack/async HTTP/1.1\r\nContent-Type: {FORM['Content-Type']}\r\n"
        "Transfer-Encoding: chunked\r\n",
        "put": f"PUT {path}/parameters/mask HTTP/1.1\r\nContent-Length: 100\r\n",
    }[kind]
    with patient.socket() as connection:
        began = time.monotonic()
        connection.sendall(f"{head}Host: localhost\r\n\r\n".encode())
        connection.sendall(b"5\r\nscale\r\n" if kind == "chunked" else b"scale")
        answer = b""
        while piece := connection.recv(4096):  # up to the end: the connection is closed
            answer += piece
        assert time.monotonic() - began > 1
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not come within" in answer
    # Others were not held up, and nothing was made.
    assert patient.ask("GET", f"{path}/phase")[2] == b"PENDING"


@pytest.fixture(scope="module")
def patient(
    redis_servers: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that gives a body two seconds."""
    data = tmp_path_factory.mktemp("patient")
    running = start(redis_servers("valkey"), data, UWS_WEB__BODY_SECONDS="2")
    yield running
    stop(running)


@covers("3:bad-slow-part")
def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Server) -> None:
    for _ in range(20):
        connection = server.socket()
        connection.sendall(
            b"POST /stack/async HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 100000\r\n\r\n--b\r\nContent-Dispo"
        )
        connection.close()
    assert server.ask("GET", "/healthz")[0] == 200


@covers("3:bad-plain-sentence", "UWS-51")
def test_stopping_answers_who_waits(redis_servers: Callable[[str], str], tmp_path: Path) -> None:
    running = start(redis_servers("redis"), tmp_path)
    path = running.create()
    answers: list[int] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(running.ask("GET", f"{path}?WAIT=-1")[0]))
        for _ in range(10)
    ]
    for thread in waiting:
        thread.start()
    time.sleep(1)
    assert answers == []
    stop(running)
    for thread in waiting:
        thread.join(PATIENCE)
    assert answers == [200] * 10


def test_keep_alive_survives_a_refusal(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for path, status in (("/stack/async/x", 404), ("/stack/async?LAST=x", 400), ("/stack/async", 200)):
        connection.request("GET", path, body=b"WAIT=6")  # a GET with a body, as some clients send
        response = connection.getresponse()
        assert response.status == status
        response.read()
    connection.close()


@covers("3:stylesheet", "UWS-11")
def test_header_and_body_arrive_whole_and_in_order(server: Server) -> None:
    css = (Path(uws_server.__file__).parent / "web" / "static" / "uws.css").read_bytes()
    for method, path, expected in (
        ("GET", "/static/uws.css", css),  # a file, which gunicorn sends past the buffers
        ("HEAD", "/static/uws.css", b""),
        ("GET", "/healthz", b"ok"),
        ("HEAD", "/healthz", b""),
    ):
        status, headers, body = server.ask(method, path)
        assert (status, body) == (200, expected)
        assert headers["Content-Length"] == str(len(css) if "css" in path else 2)
    path = server.create()
    content = os.urandom(1_000_000)
    assert server.ask("PUT", f"{path}/parameters/mask", content)[0] == 303
    assert server.ask("GET", f"{path}/parameters/mask")[2] == content  # streamed, in many pieces


@covers("3:bad-plain-sentence")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: odd\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: tea\r\n\r\n", 417),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(server: Server, sent: bytes, status: int) -> None:
    with server.socket() as connection:
        connection.sendall(sent)
        response = http.client.HTTPResponse(connection)
        response.begin()
        sentence = response.read().decode()
    assert response.status == status
    assert response.headers.get_content_type() == "text/plain"
    assert "<" not in sentence
    assert "\n" not in sentence
    assert len(sentence) > 20
    assert server.ask("GET", "/healthz")[0] == 200
