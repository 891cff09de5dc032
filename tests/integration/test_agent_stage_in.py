"""The agent's `stage-in`, as a real process, with sources that behave and sources that do not."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Response

from tests.integration.agent_door import JOB, OURS, Attempt, DoorDouble, ended, kill, serving
from tests.waiting import PATIENCE, until
from uws_server.domain.runspec import Input, Resources
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED

MIB = 1024 * 1024
DATA = os.urandom(1_000_000)

# For localhost and 127.0.0.1, signed by itself, made for this test.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnPxrq4VLGANWOUnE
BCWS+eD8AAX4CJ14MjF4v0gXokWhRANCAAR5CLDIodLLzzTIYi8Gilk30ROxxlJq
VNU0ay7kCIcYlbkgGtdpQLxRjWMBJcQ2Ro7jRqF8MqidKfVKy1cvLDjs
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUfoPY1Yv79mcfkwWQacgpow/xa0UwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTEyMDkxM1oYDzIxMDkwMTEw
MTIwOTEzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAR5CLDIodLLzzTIYi8Gilk30ROxxlJqVNU0ay7kCIcYlbkgGtdpQLxR
jWMBJcQ2Ro7jRqF8MqidKfVKy1cvLDjso28wbTAdBgNVHQ4EFgQUJl95zMFDxrCt
rTN8ECzGDfQxCuYwHwYDVR0jBBgwFoAUJl95zMFDxrCtrTN8ECzGDfQxCuYwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhALHNheLnLS9JjMFCEAMPMWVKhnILm6ixdpdKdZrxJ3gsAiEA
m2xwvvaHvb5cCzhvIHyw4F4FKzmNFZwDnJYzQ5IPBDg=
-----END CERTIFICATE-----
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: dict[str, Callable[[Handler], None]]
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.answers[path](self)

    def log_message(self, *_: object) -> None:
        """Tests tell what went wrong."""

    def answer(self, status: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        if length is not None:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: dict[str, Callable[[Handler], None]]
    asked: list[tuple[str, dict[str, str]]]

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some of these tests are about."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    asked: list[tuple[str, dict[str, str]]] = []
    answers: dict[str, Callable[[Handler], None]] = {}
    handler = type("Bound", (Handler,), {"answers": answers, "asked": asked})
    server = Server(("127.0.0.1", 0), handler)
    server.answers, server.asked = answers, asked
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def sources() -> Iterator[Server]:
    with http_server() as server:
        yield server


def stage(top: Path, *inputs: Input, port: int = 1, **access: Any) -> tuple[int, dict[str, Any], Attempt]:
    attempt = Attempt(top / "site" / "a", port, inputs=inputs, **access)
    code = attempt.run("stage-in")
    # Whatever happens, nothing half done stands among the inputs.
    assert not list(attempt.inputs.glob(".stage-in-part-*"))
    return code, attempt.said("stage-in"), attempt


def failed(answer: tuple[int, dict[str, Any], Attempt]) -> dict[str, Any]:
    """What was said; nothing was staged."""
    code, said, attempt = answer
    assert code == STAGE_IN_FAILED
    assert not said["ok"]
    assert said["message"].endswith(".")
    assert "\n" not in said["message"]
    assert [path for path in attempt.inputs.rglob("*") if path.is_file()] == []
    return said


@pytest.mark.covers("3:agent-stage-in", "3:agent-checksums")
def test_http(sources: Server, tmp_path: Path) -> None:
    sources.answers["/data/lc.txt"] = lambda http: http.answer(200, DATA)
    url = sources.url("/data/lc.txt?key=geheim#part").replace("http://", "http://ann:pass@")
    digest = hashlib.sha256(DATA).hexdigest()
    code, said, attempt = stage(tmp_path, Input("in/lc.txt", url, digest.upper(), mode=0o400))
    assert code == 0
    assert said == {
        "ok": True,
        "message": "",
        "detail": "",
        "transient": False,
        "inputs": [
            {
                "path": "in/lc.txt",
                "source": sources.url("/data/lc.txt?key=geheim#part"),
                "size": len(DATA),
                "sha256": digest,
            }
        ],
    }
    staged = attempt.inputs / "in" / "lc.txt"
    assert staged.read_bytes() == DATA
    assert staged.stat().st_mode & 0o7777 == 0o400
    path, headers = sources.asked[0]
    assert path == "/data/lc.txt?key=geheim"
    assert headers["authorization"] == "Basic " + base64.b64encode(b"ann:pass").decode()
    assert attempt.run("stage-in") == 0  # again: nothing is fetched twice
    assert len(sources.asked) == 1


@pytest.mark.covers("3:agent-checksums")
def test_wrong_checksum(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x"] = lambda http: http.answer(200, b"what came")
    said = failed(stage(tmp_path, Input("x", sources.url("/x"), "0" * 64)))
    assert f"Input 'x' from {sources.url('/x')} has the wrong checksum: sha256 " in said["message"]
    assert not said["transient"]


@pytest.mark.covers("3:agent-checksums")
@pytest.mark.parametrize("told", [True, False])
def test_longer_than_the_limit(sources: Server, tmp_path: Path, told: bool) -> None:
    sent = 0

    def endless(http: Handler) -> None:
        nonlocal sent
        http.send_response(200)
        if told:
            http.send_header("Content-Length", str(10**12))
        http.end_headers()
        http.close_connection = True
        while True:
            sent += http.wfile.write(bytes(65536))

    sources.answers["/x"] = endless
    said = failed(stage(tmp_path, Input("x", sources.url("/x"), max_bytes=100_000)))
    assert "is larger than its limit of 100000 bytes" in said["message"]
    assert not said["transient"]
    assert sent < 32 * MIB  # what buffers hold


def test_exactly_the_limit(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x"] = lambda http: http.answer(200, bytes(1000))
    assert stage(tmp_path, Input("x", sources.url("/x"), max_bytes=1000))[0] == 0


def test_all_together_larger_than_the_disk(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x"] = lambda http: http.answer(200, bytes(600))
    inputs = [Input(name, sources.url("/x")) for name in ("a", "b")]
    code, said, _ = stage(tmp_path, *inputs, resources=Resources(disk_bytes=1000))
    assert code == STAGE_IN_FAILED
    assert said["message"] == "The inputs together are larger than the job's disk."


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_clear_no_is_not_asked_again(sources: Server, tmp_path: Path, status: int) -> None:
    sources.answers["/x"] = lambda http: http.answer(status, b"secret details")
    url = sources.url("/x?token=geheim").replace("http://", "http://ann:pass@")
    said = failed(stage(tmp_path, Input("x", url)))
    assert said["message"].startswith(
        f"Input 'x' could not be had from {sources.url('/x')}: the server answered {status}"
    )
    assert not said["transient"]
    assert not {"geheim", "pass", "secret"} & set(said["message"].replace("=", " ").replace(":", " ").split())
    assert len(sources.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_faults_that_pass(sources: Server, tmp_path: Path, status: int) -> None:
    def answer(http: Handler) -> None:
        http.answer(*((status, b"") if len(sources.asked) < 3 else (200, DATA)), Retry_After="0")

    sources.answers["/x"] = answer
    code, _, attempt = stage(tmp_path, Input("x", sources.url("/x")))
    assert code == 0
    assert (attempt.inputs / "x").read_bytes() == DATA
    assert len(sources.asked) == 3


def test_faults_that_stay(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x"] = lambda http: http.answer(503, Retry_After="0")
    said = failed(stage(tmp_path, Input("x", sources.url("/x")), tries=4))
    assert "the server answered 503 Service Unavailable" in said["message"]
    assert said["transient"]
    assert len(sources.asked) == 4


def test_retry_after_is_honoured(sources: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def answer(http: Handler) -> None:
        times.append(time.monotonic())
        http.answer(*((503, b"") if len(times) < 2 else (200, DATA)), Retry_After="1")

    sources.answers["/x"] = answer
    assert stage(tmp_path, Input("x", sources.url("/x")))[0] == 0
    assert times[1] - times[0] >= 1


def test_nobody_listens(tmp_path: Path) -> None:
    said = failed(stage(tmp_path, Input("x", "http://127.0.0.1:1/x"), tries=2))
    assert said["message"].endswith(": the server does not accept connections.")
    assert said["transient"]


def partly(http: Handler, validator: tuple[str, str] | None) -> None:
    """400,000 bytes at a time, then the connection breaks."""
    start = 0
    asked = http.headers.get("Range")
    headers = {validator[0].replace("-", "_"): validator[1]} if validator else {}
    if validator and asked and http.headers.get("If-Range") == validator[1]:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers["Content_Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
    http.answer(206 if start else 200, DATA[start : start + 400_000], len(DATA) - start, **headers)


@pytest.mark.parametrize("validator", [("ETag", '"one"'), ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")])
def test_a_broken_download_is_resumed(sources: Server, tmp_path: Path, validator: tuple[str, str]) -> None:
    sources.answers["/x"] = lambda http: partly(http, validator)
    digest = hashlib.sha256(DATA).hexdigest()
    code, said, attempt = stage(tmp_path, Input("x", sources.url("/x"), digest), tries=2)
    assert code == 0, said
    assert (attempt.inputs / "x").read_bytes() == DATA
    assert [headers.get("range") for _, headers in sources.asked] == [None, "bytes=400000-", "bytes=800000-"]


def test_without_a_validator_it_starts_again(sources: Server, tmp_path: Path) -> None:
    def answer(http: Handler) -> None:
        if len(sources.asked) < 3:
            partly(http, None)
        else:
            http.answer(200, DATA)

    sources.answers["/x"] = answer
    code, _, attempt = stage(tmp_path, Input("x", sources.url("/x"), hashlib.sha256(DATA).hexdigest()))
    assert code == 0
    assert (attempt.inputs / "x").stat().st_size == len(DATA)
    assert all("range" not in headers for _, headers in sources.asked)


def test_a_file_that_changes_while_it_is_fetched(sources: Server, tmp_path: Path) -> None:
    """The server answers the range with the whole of the new one; no mixture is kept."""
    new = os.urandom(len(DATA))

    def answer(http: Handler) -> None:
        if len(sources.asked) == 1:
            partly(http, ("ETag", '"old"'))
        else:
            http.answer(200, new, ETag='"new"')

    sources.answers["/x"] = answer
    code, _, attempt = stage(tmp_path, Input("x", sources.url("/x"), hashlib.sha256(new).hexdigest()))
    assert code == 0
    assert (attempt.inputs / "x").read_bytes() == new


def test_chunked_and_cut_off(sources: Server, tmp_path: Path) -> None:
    def answer(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()
        http.wfile.write(b"5\r\nhello\r\n")
        if len(sources.asked) > 1:
            http.wfile.write(b"6\r\n world\r\n0\r\n\r\n")
        http.close_connection = True

    sources.answers["/x"] = answer
    code, _, attempt = stage(tmp_path, Input("x", sources.url("/x")))
    assert code == 0
    assert (attempt.inputs / "x").read_bytes() == b"hello world"
    assert len(sources.asked) == 2


def test_a_compressed_file_stays_as_it_is(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x.fits.gz"] = lambda http: http.answer(
        200, b"\x1f\x8bnot really", Content_Encoding="x-gzip"
    )
    code, _, attempt = stage(tmp_path, Input("x.fits.gz", sources.url("/x.fits.gz")))
    assert code == 0
    assert (attempt.inputs / "x.fits.gz").read_bytes() == b"\x1f\x8bnot really"
    assert sources.asked[0][1]["accept-encoding"] == "identity"


def test_a_source_that_stalls(sources: Server, tmp_path: Path) -> None:
    release = threading.Event()

    def stall(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Content-Length", "1000")
        http.end_headers()
        http.wfile.write(b"some")
        release.wait(PATIENCE)

    sources.answers["/x"] = stall
    start = time.monotonic()
    said = failed(stage(tmp_path, Input("x", sources.url("/x")), stall_seconds=0.5, tries=2))
    release.set()
    assert time.monotonic() - start < PATIENCE / 2
    assert "the server took too long" in said["message"]
    assert said["transient"]
    assert len(sources.asked) == 2


def test_a_source_that_drips(sources: Server, tmp_path: Path) -> None:
    """Never silent for long, never done: the total time ends it."""
    release = threading.Event()

    def drip(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Content-Length", "1000000")
        http.end_headers()
        while not release.wait(0.05):
            http.wfile.write(b".")

    sources.answers["/x"] = drip
    start = time.monotonic()
    said = failed(stage(tmp_path, Input("x", sources.url("/x")), stage_in_seconds=1))
    release.set()
    assert time.monotonic() - start < PATIENCE / 2
    assert "not all inputs came within 1 s" in said["message"]
    assert said["transient"]


def test_one_failure_ends_the_others(sources: Server, tmp_path: Path) -> None:
    release = threading.Event()

    def drip(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Content-Length", "1000000")
        http.end_headers()
        while not release.wait(0.05):
            http.wfile.write(b".")

    sources.answers["/slow"] = drip
    sources.answers["/none"] = lambda http: http.answer(404)
    said = failed(stage(tmp_path, Input("slow", sources.url("/slow")), Input("none", sources.url("/none"))))
    release.set()
    assert said["message"].startswith("Input 'none'")


# Where a source may not lead ----------------------------------------------------------------------


def test_redirects_are_followed(sources: Server, tmp_path: Path) -> None:
    sources.answers["/a"] = lambda http: http.answer(302, Location="b?x=1")
    sources.answers["/b"] = lambda http: http.answer(308, Location=sources.url("/c"))
    sources.answers["/c"] = lambda http: http.answer(200, DATA)
    code, said, attempt = stage(tmp_path, Input("x", sources.url("/a")))
    assert code == 0
    assert said["inputs"][0]["source"] == sources.url("/a")
    assert (attempt.inputs / "x").read_bytes() == DATA


def test_the_password_goes_to_no_other_host(sources: Server, tmp_path: Path) -> None:
    with http_server() as other:
        sources.answers["/a"] = lambda http: http.answer(302, Location=other.url("/b"))
        other.answers["/b"] = lambda http: http.answer(200, DATA)
        code, _, _ = stage(tmp_path, Input("x", sources.url("/a").replace("http://", "http://ann:pass@")))
        assert code == 0
        assert "authorization" in sources.asked[0][1]
        assert "authorization" not in other.asked[0][1]


def test_redirects_without_end(sources: Server, tmp_path: Path) -> None:
    sources.answers["/a"] = lambda http: http.answer(302, Location="/a")
    said = failed(stage(tmp_path, Input("x", sources.url("/a"))))
    assert "redirects more than 5 times" in said["message"]
    assert len(sources.asked) == 6


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://127.0.0.1/", "data:,x"]
)
def test_redirects_to_other_schemes(sources: Server, tmp_path: Path, target: str) -> None:
    sources.answers["/a"] = lambda http: http.answer(302, Location=target)
    said = failed(stage(tmp_path, Input("x", sources.url("/a")), file_inputs=["/"]))
    assert "no http or https URL" in said["message"]
    assert not said["transient"]


METADATA = [
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0.0.0.0:{port}/b",
    "http://[::]:{port}/b",
    "https://169.254.169.254/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
]


@pytest.mark.parametrize("target", METADATA)
@pytest.mark.parametrize("redirected", [True, False])
def test_metadata_addresses(sources: Server, tmp_path: Path, target: str, redirected: bool) -> None:
    target = target.format(port=sources.server_port)
    sources.answers["/a"] = lambda http: http.answer(302, Location=target)
    sources.answers["/b"] = lambda http: http.answer(200, b"secret")
    said = failed(stage(tmp_path, Input("x", sources.url("/a") if redirected else target)))
    assert "its address is not one that jobs may reach" in said["message"]
    assert not said["transient"]
    assert all(path != "/b" for path, _ in sources.asked)


def test_networks_that_the_site_denies(sources: Server, tmp_path: Path) -> None:
    said = failed(stage(tmp_path, Input("x", sources.url("/a")), deny_networks=["10.0.0.0/8", "127.0.0.0/8"]))
    assert "its address is not one that jobs may reach" in said["message"]
    assert sources.asked == []


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "localhost.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with http_server(context) as server:
        server.answers["/x"] = lambda http: http.answer(200, DATA)
        url = server.url("/x").replace("http:", "https:")
        said = failed(stage(tmp_path / "1", Input("x", url)))
        assert "its certificate could not be verified" in said["message"]
        assert not said["transient"]
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert stage(tmp_path / "2", Input("x", url))[0] == 0


@pytest.mark.covers("3:bad-path")
@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", ".", "", "a/", "x\ny", "\0"])
def test_paths_that_lead_out(sources: Server, tmp_path: Path, path: str) -> None:
    sources.answers["/x"] = lambda http: http.answer(200, DATA)
    said = failed(stage(tmp_path, Input(path, sources.url("/x"))))
    assert "is no path for an input" in said["message"]
    assert sources.asked == []


def test_two_inputs_in_one_place(tmp_path: Path) -> None:
    said = failed(stage(tmp_path, Input("x", "upload:a"), Input("x", "upload:b")))
    assert said["message"] == "Two inputs have the same path 'x'."


@pytest.mark.parametrize(
    "source", ["data:,hello", "ftp://h/x", "gopher://h", "x", "", "javascript:1", "s4://b/k"]
)
def test_other_sources(tmp_path: Path, source: str) -> None:
    said = failed(stage(tmp_path, Input("x", source), file_inputs=["/"]))
    assert "use http, https or an upload" in said["message"]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[x/",
        "http://a b/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://\udc80/",
    ],
)
def test_broken_urls(tmp_path: Path, url: str) -> None:
    failed(stage(tmp_path, Input("x", url), tries=1))


# file: and upload: --------------------------------------------------------------------------------


@pytest.mark.covers("3:agent-stage-in")
def test_files(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_bytes(DATA)
    (tmp_path / "link").symlink_to("a b.txt")
    code, said, attempt = stage(
        tmp_path,
        Input("x", f"file://{tmp_path}/a%20b.txt", hashlib.sha256(DATA).hexdigest()),
        Input("y", f"file://localhost{tmp_path}/link"),
        file_inputs=[str(tmp_path)],
    )
    assert code == 0, said
    assert (attempt.inputs / "x").read_bytes() == (attempt.inputs / "y").read_bytes() == DATA


def test_files_only_where_the_site_allows(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    said = failed(stage(tmp_path, Input("x", f"file://{tmp_path}/x")))
    assert said["message"] == "Input 'x': this site takes no file: sources."


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/pipe", "no regular file"),
        ("/directory", "no regular file"),
        ("/none", "No such file"),
        ("/big", "larger than its limit"),
        ("/site/a/agent.json", "takes files from"),
        ("/site/other/agent.json", "takes files from"),
        ("/to-token", "takes files from"),
        ("/to-outside", "takes files from"),
        ("/../../../etc/passwd", "takes files from"),
        ("x/big", "takes files from"),
        ("/data/secret", "takes files from"),
        ("/to-data/secret", "takes files from"),
        ("/%00", "no file of this machine"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, path: str, why: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "to-token").symlink_to("site/a/agent.json")
    (tmp_path / "to-outside").symlink_to("/etc/passwd")
    (tmp_path / "to-data").symlink_to("data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text("secret")
    (tmp_path / "big").write_bytes(bytes(1001))
    source = Input("x", f"file://{tmp_path}{path}", max_bytes=1000)
    said = failed(stage(tmp_path, source, file_inputs=[str(tmp_path)], file_hidden=[f"{tmp_path}/data"]))
    assert why in said["message"]


def test_files_of_other_machines(tmp_path: Path) -> None:
    said = failed(stage(tmp_path, Input("x", "file://elsewhere/etc/hosts"), file_inputs=["/"]))
    assert "no file of this machine" in said["message"]


@pytest.mark.covers("3:agent-stage-in")
@pytest.mark.parametrize("name", ["table.csv", "ünï cödé", "100%", "a+b?c#d", "%2e"])
def test_uploads(door: DoorDouble, tmp_path: Path, name: str) -> None:
    door.store.put(f"jobs/{JOB}/parameters/{name}", DATA)
    with serving(door.app()) as port:
        code, said, attempt = stage(tmp_path, Input("x", f"upload:{name}"), port=port)
    assert code == 0, said
    assert (attempt.inputs / "x").read_bytes() == DATA
    assert said["inputs"][0]["source"] == f"upload:{name}"


def test_content_that_travels_in_the_run_spec(tmp_path: Path) -> None:
    content = "print('ü')\n"
    code, said, attempt = stage(tmp_path, Input("run.py", "template:script", mode=0o444, content=content))
    assert code == 0, said
    assert (attempt.inputs / "run.py").read_text() == content
    assert said["inputs"][0]["source"] == "template:script"
    said = failed(stage(tmp_path / "2", Input("run.py", "template:script", max_bytes=3, content=content)))
    assert "larger than its limit of 3 bytes" in said["message"]


def test_an_upload_that_is_not_there(door: DoorDouble, tmp_path: Path) -> None:
    with serving(door.app()) as port:
        said = failed(stage(tmp_path, Input("x", "upload:none"), port=port))
    assert (
        said["message"] == "Input 'x' could not be had from upload:none: the server answered 404 NOT FOUND."
    )


@pytest.mark.covers("3:agent-resume")
@pytest.mark.parametrize("status", [302, 401, 403, 404])
def test_a_proxys_word_on_an_upload_is_not_the_last(door: DoorDouble, tmp_path: Path, status: int) -> None:
    """Such as of a proxy whose web is just being started; of a user's own URL it would be."""
    door.store.put(f"jobs/{JOB}/parameters/x", DATA)
    said: list[str] = []

    def fault(call: str) -> Response | None:
        if "/parameters/" in call and len(said) < 3:
            said.append(call)
            return Response("<h1>Not here</h1>", status)
        return None

    door.fault = fault
    with serving(door.app()) as port:
        code, answer, attempt = stage(tmp_path, Input("x", "upload:x"), port=port, tries=2)
    assert code == 0, answer
    assert (attempt.inputs / "x").read_bytes() == DATA
    assert len(said) == 3


def test_a_proxy_that_stays_in_the_way_of_an_upload(door: DoorDouble, tmp_path: Path) -> None:
    door.fault = lambda call: Response("Not here", 404) if "/parameters/" in call else None
    with serving(door.app()) as port:
        said = failed(stage(tmp_path, Input("x", "upload:x"), port=port, patience_seconds=1, tries=2))
    assert "the server answered 404" in said["message"]
    assert said["transient"]


def test_fenced_off(door: DoorDouble, tmp_path: Path) -> None:
    door.fault = lambda call: Response("No.\n", 403, OURS) if call.endswith("links") else None
    with serving(door.app()) as port:
        attempt = Attempt(tmp_path / "a", port, inputs=[Input("x", "upload:x")])
        assert attempt.run("stage-in") == FENCED
    assert not (attempt.top / "stage-in.json").exists()


def test_the_door_is_away(tmp_path: Path) -> None:
    said = failed(stage(tmp_path, Input("x", "upload:x"), patience_seconds=0.5))
    assert "the server could not be reached" in said["message"]
    assert said["transient"]


# Cost and crashes ---------------------------------------------------------------------------------


@pytest.mark.covers("3:agent-memory")
def test_memory_is_bounded(sources: Server, tmp_path: Path) -> None:
    def big(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Content-Length", str(300 * MIB))
        http.end_headers()
        for _ in range(300):
            http.wfile.write(bytes(MIB))

    sources.answers["/big"] = big
    attempt = Attempt(tmp_path / "a", 1, inputs=[Input("big", sources.url("/big"))])
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    agent = [sys.executable, "-m", "runners.agent", "stage-in", str(attempt.top)]
    run = subprocess.run(
        [sys.executable, "-c", measure, *agent], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    code, mib = run.stdout.split()
    assert code == "0", run.stderr
    assert int(mib) < 70
    assert (attempt.inputs / "big").stat().st_size == 300 * MIB


def test_killed_and_run_again(sources: Server, tmp_path: Path) -> None:
    halfway, release = threading.Event(), threading.Event()

    def half(http: Handler) -> None:
        http.send_response(200)
        http.send_header("Content-Length", str(len(DATA)))
        http.end_headers()
        http.wfile.write(DATA[:500_000])
        halfway.set()
        release.wait(PATIENCE)

    sources.answers["/x"] = half
    attempt = Attempt(tmp_path / "a", 1, inputs=[Input("x", sources.url("/x"))])
    agent = attempt.start("stage-in")
    assert halfway.wait(PATIENCE)
    until(
        lambda: any(path.stat().st_size for path in attempt.inputs.glob(".stage-in-part-*")),
        "the first half of the file",
    )
    kill(agent)
    release.set()
    assert not (attempt.inputs / "x").exists()
    sources.answers["/x"] = lambda http: http.answer(200, DATA)
    assert attempt.run("stage-in") == 0
    assert (attempt.inputs / "x").read_bytes() == DATA
    assert not list(attempt.inputs.glob(".stage-in-part-*"))


def test_a_failure_is_tried_again_when_asked_to(sources: Server, tmp_path: Path) -> None:
    sources.answers["/x"] = lambda http: http.answer(404)
    code, _, attempt = stage(tmp_path, Input("x", sources.url("/x")))
    assert code == STAGE_IN_FAILED
    sources.answers["/x"] = lambda http: http.answer(200, DATA)
    assert attempt.run("stage-in") == 0
    assert attempt.said("stage-in")["ok"]


def imports(attempt: Attempt) -> set[str]:
    """What a stage-in of this attempt imports."""
    agent = [sys.executable, "-X", "importtime", "-m", "runners.agent", "stage-in", str(attempt.top)]
    run = subprocess.run(agent, capture_output=True, text=True, timeout=PATIENCE, check=True)
    found = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "runners.agent.attempt_dir" in found
    return found


def test_nothing_heavy_is_imported(door: DoorDouble, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", 1)
    heavy = {"urllib3", "logging", "concurrent.futures", "pydantic", "flask", "obstore"}
    assert not imports(attempt) & {*heavy, "ssl", "socket", "http.client"}
    assert attempt.said("stage-in")["inputs"] == []
    door.store.put(f"jobs/{JOB}/parameters/x", DATA)
    with serving(door.app()) as port:
        uploaded = imports(Attempt(tmp_path / "b", port, inputs=[Input("x", "upload:x")]))
    assert "http.client" in uploaded
    assert not uploaded & heavy


USAGE = "usage: python -m runners.agent stage-in|follow DIR | pod DIR CONTROL\n"


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in ([], ["stage-in"], ["other", str(tmp_path)], ["follow", "a", "b"]):
        run = subprocess.run(
            [sys.executable, "-m", "runners.agent", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (run.returncode, run.stderr) == (2, USAGE)


def test_a_source_that_hangs_holds_a_failure_up_for_one_stall_at_most(
    sources: Server, tmp_path: Path
) -> None:
    release = threading.Event()

    def silent(_: Handler) -> None:
        release.wait(PATIENCE)

    sources.answers["/none"] = lambda http: http.answer(404)
    sources.answers["/silent"] = silent
    inputs = [Input("silent", sources.url("/silent")), Input("none", sources.url("/none"))]
    attempt = Attempt(tmp_path / "a", 1, inputs=inputs, stall_seconds=1)
    start = time.monotonic()
    process = attempt.start("stage-in")
    assert ended(process) == STAGE_IN_FAILED
    release.set()
    assert time.monotonic() - start < PATIENCE / 2
    assert json.loads((attempt.top / "stage-in.json").read_bytes())["message"].startswith("Input 'none'")
