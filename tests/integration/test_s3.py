"""The S3 store against real servers: links, large objects, and what it says when something is wrong."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.s3_gate import Gate, gate
from tests.s3_servers import SERVERS, S3Server
from tests.waiting import PATIENCE, until
from uws_server.storage import s3, s3_requests
from uws_server.storage.base import NotStored, StorageUnavailable, TooLong
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.sigv4 import Key

SECRET = "not-to-be-seen-anywhere"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, s3_servers: Callable[[str], S3Server]) -> S3Server:
    return s3_servers(request.param)


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return server.bucket("of/ours")


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    return S3Store(bucket)


@pytest.fixture
def between(bucket: Bucket) -> Iterator[Gate]:
    with gate(bucket.endpoint) as made:
        yield made


def follow(link: str, content: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(link, content, headers, method="GET" if content is None else "PUT")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, {name.lower(): v for name, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, {}, refusal.read()


@pytest.mark.covers("4:object-store-links")
def test_a_put_link_takes_just_the_length_it_was_made_for(store: S3Store) -> None:
    link = store.sign("PUT", "a/b ü", 60, 5)
    for wrong in (b"four", b"longer", b""):
        assert follow(link, wrong)[0] == 403
    with pytest.raises(NotStored):
        store.head("a/b ü")
    assert follow(link, b"right", **{"Content-Type": "application/fits"})[0] == 200
    status, headers, body = follow(store.sign("GET", "a/b ü", 60))
    assert (status, headers["content-type"], body) == (200, "application/fits", b"right")
    assert follow(store.sign("GET", "a/b ü", 60), Range="bytes=1-2")[::2] == (206, b"ig")


@pytest.mark.covers("4:object-store-links")
def test_a_get_link_says_the_media_type_that_was_judged(store: S3Store) -> None:
    """Who holds the token of an attempt could PUT a page as what no browser runs, or the reverse."""
    assert follow(store.sign("PUT", "a", 60, 3), b"<b>", **{"Content-Type": "text/html"})[0] == 200
    link = store.sign("GET", "a", 60, media_type="application/fits")
    assert follow(link)[1]["content-type"] == "application/fits"
    assert follow(link.replace("application%2Ffits", "text%2Fhtml"))[0] == 403


@pytest.mark.covers("4:object-store-links")
def test_more_than_s3_takes_at_once_is_refused_before_it_is_sent(store: S3Store) -> None:
    store.sign("PUT", "a", 60, 5 * 1024**3)
    with pytest.raises(TooLong, match="more than S3 takes at once"):
        store.sign("PUT", "a", 60, 5 * 1024**3 + 1)


@pytest.mark.covers("4:object-store-links")
def test_a_link_permits_nothing_else(store: S3Store) -> None:
    store.put("a/b", b"1")
    store.put("a/c", b"2")
    link = store.sign("GET", "a/b", 60)
    assert follow(link)[0] == 200
    assert follow(link.replace("/a/b?", "/a/c?"))[0] == 403
    assert follow(link, b"3")[0] == 403
    assert follow(link[:-1] + ("0" if link[-1] != "0" else "1"))[0] == 403
    assert follow(store.sign("GET", "a/b", -1))[0] in {400, 403}
    assert [stored.key for stored in store.list("")] == ["a/b", "a/c"]


@pytest.mark.covers("4:object-store-links")
def test_links_for_clients_lead_to_the_public_endpoint(bucket: Bucket) -> None:
    public = bucket.endpoint.replace("127.0.0.1", "localhost")
    store = S3Store(replace(bucket, public_endpoint=public))
    store.put("a", b"1")
    inside, outside = store.sign("GET", "a", 60), store.sign("GET", "a", 60, public=True)
    assert inside.startswith(bucket.endpoint)
    assert outside.startswith(public)
    assert follow(inside)[2] == follow(outside)[2] == b"1"


@pytest.mark.covers("4:object-store-links")
def test_a_role_gives_the_key_that_nobody_has_set(
    s3_servers: Callable[[str], S3Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pod or a machine may do, asked for where the environment says, as clouds offer it."""
    bucket = s3_servers("swift").bucket()  # versitygw takes no session tokens
    key = bucket.key
    assert key is not None

    said = {"AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": "session"}
    body = json.dumps({**said, "Expiration": "2099-01-01T00:00:00Z"}).encode()

    class Role(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Role) as role:
        thread = threading.Thread(target=role.serve_forever)
        thread.start()
        try:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                monkeypatch.delenv(name)
            url = f"http://127.0.0.1:{role.server_port}/role"
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
            (tmp_path / "token").write_text("a-token")
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
            store = S3Store(replace(bucket, key=None))
            store.put("a", b"1")
            assert follow(store.sign("GET", "a", 60))[::2] == (200, b"1")
        finally:
            role.shutdown()
            thread.join()


@pytest.mark.covers("4:object-store")
def test_large_objects_go_in_parts_with_bounded_memory(bucket: Bucket) -> None:
    """200 MiB, of which no more than some parts are in memory."""
    assert bucket.key is not None
    script = f"""
import resource
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.sigv4 import Key
key = Key({bucket.key.id!r}, {bucket.key.secret!r})
store = S3Store(Bucket({bucket.name!r}, endpoint={bucket.endpoint!r}, key=key))
store.put("small", b"x")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunk = bytes(range(256)) * 4096
put = store.put("a", (chunk for _ in range(200)))
assert store.head("a").etag == put.etag
size = 0
for part in store.read("a", 1):
    assert part[0] == (size + 1) % 256
    size += len(part)
assert size == 200 * len(chunk) - 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 100  # MiB


CALLS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put("a/b", b"x"),
    "read": lambda store: store.read("a/b"),
    "head": lambda store: store.head("a/b"),
    "list": lambda store: list(store.list("a")),
    "list all": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a/b"),
}
WRONG: dict[str, tuple[Callable[[Bucket], Bucket], str]] = {
    "id": (lambda bucket: replace(bucket, key=Key("nobody", SECRET)), r"not know our access key|secret key"),
    "secret": (
        lambda bucket: replace(bucket, key=Key(bucket.key.id if bucket.key else "", SECRET)),
        "secret key",
    ),
    "bucket": (lambda bucket: replace(bucket, name="none-of-this-name"), "there is no such bucket"),
    "port": (lambda bucket: replace(bucket, endpoint="http://127.0.0.1:1"), "nobody answers at that address"),
    "host": (lambda bucket: replace(bucket, endpoint="http://none.invalid"), "host is not known"),
}


look_up_here = socket.getaddrinfo


def look_up(host: str | None, *arguments: Any, **options: Any) -> Any:
    """As a resolver answers, which no test may ask."""
    if host == "none.invalid":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return look_up_here(host, *arguments, **options)


@pytest.mark.covers("4:object-store-outage", "4:object-store-secret")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_and_never_taken_for_a_missing_object(
    bucket: Bucket, wrong: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_RETRIES", 1)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    change, sentence = WRONG[wrong]
    S3Store(bucket).put("a/b", b"1")
    with pytest.raises(StorageUnavailable, match=sentence) as said:
        CALLS[call](S3Store(replace(change(bucket), prefix="")))
    assert SECRET not in str(said.value)
    assert "Signature=" not in str(said.value)
    assert said.value.__cause__ is None


@pytest.mark.covers("4:object-store-outage")
def test_a_clock_that_is_wrong_is_named(bucket: Bucket) -> None:
    assert bucket.key is not None
    script = f"""
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.sigv4 import Key
key = Key({bucket.key.id!r}, {bucket.key.secret!r})
S3Store(Bucket({bucket.name!r}, endpoint={bucket.endpoint!r}, key=key)).put("a", b"")
"""
    environment = {**os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": "-2h", "DONT_FAKE_MONOTONIC": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "its clock and ours differ by more than it permits" in run.stderr


@pytest.mark.covers("4:object-store-outage")
def test_a_key_named_like_an_answer_is_no_answer(bucket: Bucket) -> None:
    key = "x - Server returned non-2xx status code: 404 Not Found: <Code>NoSuchKey<"
    gone = S3Store(replace(bucket, name="none-of-this-name"))
    for call in (gone.head, gone.read):
        with pytest.raises(StorageUnavailable, match="no such bucket"):
            call(f"{key}/Code>")


@pytest.mark.covers("4:object-store-outage")
def test_connections_that_break_are_tried_again(bucket: Bucket, between: Gate) -> None:
    store = S3Store(replace(bucket, endpoint=between.endpoint))
    between.refuse(2)
    store.put("a", b"1")
    assert between.entered >= 3
    between.refuse(1)  # and the connection that is kept
    assert b"".join(store.read("a")) == b"1"


@pytest.mark.covers("4:object-store-outage")
@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_says_nothing_is_given_up(
    bucket: Bucket, between: Gate, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_SILENCE", timedelta(milliseconds=300))
    monkeypatch.setattr(s3, "_RETRY_SECONDS", timedelta(milliseconds=100))
    monkeypatch.setattr(s3_requests, "_SILENCE", 0.3)
    monkeypatch.setattr(s3_requests, "_RETRY_SECONDS", 0.1)
    store = S3Store(replace(bucket, endpoint=between.endpoint))
    between.hold()
    with pytest.raises(StorageUnavailable, match="does not answer in time"):
        CALLS[call](store)
    between.release()
    store.put("a/b", b"1")
    assert b"".join(store.read("a/b")) == b"1"


@pytest.mark.covers("4:object-store-outage")
def test_an_upload_that_breaks_off_leaves_the_old_object(bucket: Bucket, between: Gate) -> None:
    store = S3Store(replace(bucket, endpoint=between.endpoint))
    store.put("a", b"old")

    def broken() -> None:
        until(lambda: between.passed > 20 * 1024**2, "some of the parts")
        between.refuse()

    with ThreadPoolExecutor(1) as threads:
        breaking = threads.submit(broken)
        with pytest.raises(StorageUnavailable):
            store.put("a", bytes(64 * 1024**2))
        breaking.result(PATIENCE)
    between.admit()
    assert b"".join(store.read("a")) == b"old"


def check(
    server: S3Server, bucket: Bucket, data: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What `uws-server check` says of the store."""
    clean = {name: v for name, v in os.environ.items() if not name.startswith(("UWS_", "AWS_"))}
    settings = {
        "UWS_OBJECTS__URL": f"s3://{bucket.name}/{bucket.prefix}",
        "UWS_OBJECTS__ENDPOINT": bucket.endpoint,
        "UWS_SITES__LOCAL__ISOLATION": "none",
    }
    return subprocess.run(
        [sys.executable, "-m", "uws_server.cli", "check", "--data", str(data)],
        env=clean | settings | server.environment() | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.covers("4:object-store-outage", "4:object-store-secret")
def test_check_tries_the_store_and_its_links(s3_servers: Callable[[str], S3Server], tmp_path: Path) -> None:
    server = s3_servers("versitygw")
    bucket = server.bucket("of/ours")
    said = check(server, bucket, tmp_path / "data")
    assert "An object was written, read and removed." in said.stdout
    assert "Signed links store and give objects." in said.stdout
    assert list(S3Store(bucket).list("")) == []
    wrong = check(server, bucket, tmp_path / "data", AWS_SECRET_ACCESS_KEY=SECRET)
    assert wrong.returncode != 0
    assert "it takes our secret key for a wrong one" in wrong.stdout
    away = check(server, bucket, tmp_path / "data", UWS_OBJECTS__PUBLIC_ENDPOINT="http://127.0.0.1:1")
    assert away.returncode != 0
    assert "a signed link does not work" in away.stdout
    for run in (said, wrong, away):
        assert SECRET not in run.stdout + run.stderr
        assert server.key.secret not in run.stdout + run.stderr
        assert "Signature=" not in run.stdout + run.stderr
