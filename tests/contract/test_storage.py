"""What every object store must do; each one runs the same tests."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.s3_servers import SERVERS, S3Server
from tests.waiting import PATIENCE
from uws_server.storage.base import (
    Exists,
    NotStored,
    ObjectStore,
    Part,
    StorageUnavailable,
    TooLong,
    Uploads,
)
from uws_server.storage.file import FileStore
from uws_server.storage.links import BadLink, Links
from uws_server.storage.memory import MemoryStore
from uws_server.storage.open import open_store
from uws_server.storage.s3 import S3Store
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.s3_requests import ask
from uws_server.storage.s3_uploads import S3Uploads
from uws_server.storage.sigv4 import Key

pytestmark = pytest.mark.covers("3:contract-storage")

SECRET = b"s" * 32


@pytest.fixture
def links() -> Links:
    return Links(SECRET, "http://store.test")


def linking(name: str, tmp_path: Path, links: Links) -> ObjectStore:
    """A store whose links lead to our own route."""
    return MemoryStore(links) if name == "memory" else open_store(f"file://{tmp_path}/root", links)


@pytest.fixture(params=["memory", "file"])
def linked(request: pytest.FixtureRequest, tmp_path: Path, links: Links) -> ObjectStore:
    return linking(request.param, tmp_path, links)


@pytest.fixture(params=["memory", "file", *SERVERS])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, links: Links, s3_servers: Callable[[str], S3Server]
) -> ObjectStore:
    if request.param not in SERVERS:
        return linking(request.param, tmp_path, links)
    return S3Store(s3_servers(request.param).bucket("of/ours"))


def content(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(store.read(key, start, end))


def keys(store: ObjectStore, prefix: str) -> list[str]:
    return [stored.key for stored in store.list(prefix)]


def test_what_was_put_is_read(store: ObjectStore) -> None:
    put = store.put("jobs/a/1/results/x", b"0123456789")
    assert (put.key, put.size) == ("jobs/a/1/results/x", 10)
    head = store.head("jobs/a/1/results/x")
    assert abs(head.modified - put.modified) < 2000  # S3 tells whole seconds, by its own clock
    assert replace(head, modified=put.modified) == put
    assert content(store, "jobs/a/1/results/x") == b"0123456789"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("a", b"")
    assert store.head("a").size == 0
    assert content(store, "a") == b""


def test_put_streams(store: ObjectStore) -> None:
    store.put("a/b", (bytes([n]) * 1000 for n in range(200)))
    assert content(store, "a/b") == b"".join(bytes([n]) * 1000 for n in range(200))


def test_put_replaces(store: ObjectStore) -> None:
    first = store.put("a/b", b"one")
    second = store.put("a/b", b"other")
    assert content(store, "a/b") == b"other"
    assert first.etag != second.etag


def test_create_replaces_nothing(store: ObjectStore) -> None:
    first = store.put("a/b", b"one", create=True)
    for content_again in (b"one", b"other", (chunk for chunk in (b"in ", b"chunks"))):
        with pytest.raises(Exists):
            store.put("a/b", content_again, create=True)
    with pytest.raises(TooLong):
        store.put("a/c", b"four", 3, create=True)
    assert store.head("a/b").etag == first.etag
    assert content(store, "a/b") == b"one"
    assert keys(store, "") == ["a/b"]
    store.put("a/b", b"replaced")
    assert content(store, "a/b") == b"replaced"


def test_of_many_that_create_at_once_one_does(linked: ObjectStore) -> None:
    together = threading.Barrier(8)
    created: list[bytes] = []

    def create(text: bytes) -> None:
        together.wait(PATIENCE)
        with suppress(Exists):
            linked.put("a/b", text, create=True)
            created.append(text)

    threads = [threading.Thread(target=create, args=(bytes([n]) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert created == [content(linked, "a/b")]


def test_etag_is_stable(store: ObjectStore) -> None:
    put = store.put("a/b", b"one")
    store.put("a/c", b"two")
    assert {store.head("a/b").etag, next(iter(store.list("a"))).etag} == {put.etag}
    assert put.etag != store.head("a/c").etag


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 3, b"012"),
        (3, None, b"3456789"),
        (9, 10, b"9"),
        (5, 5, b""),
        (8, 100, b"89"),
        (10, None, b""),
        (99, 120, b""),
    ],
)
def test_ranges(store: ObjectStore, start: int, end: int | None, wanted: bytes) -> None:
    store.put("a", b"0123456789")
    assert content(store, "a", start, end) == wanted


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 3), (0, -1)])
def test_impossible_ranges(store: ObjectStore, start: int, end: int | None) -> None:
    store.put("a", b"0123456789")
    with pytest.raises(ValueError, match="no range"):
        store.read("a", start, end)


def test_chunks_are_bounded(store: ObjectStore) -> None:
    store.put("a", bytes(3_000_000))
    sizes = [len(chunk) for chunk in store.read("a")]
    assert sum(sizes) == 3_000_000
    assert max(sizes) <= 1024 * 1024


def test_what_is_not_there(store: ObjectStore) -> None:
    store.put("a/b", b"")
    for key in ("c", "a", "a/b/c", "a/bb"):
        with pytest.raises(NotStored):
            store.head(key)
        with pytest.raises(NotStored):
            store.read(key)  # at the call, not at the first chunk
    assert keys(store, "c") == keys(store, "a/b") == keys(store, "a/b/c") == []
    store.delete("c")
    store.delete("a/b/c")
    assert keys(store, "") == ["a/b"]


@pytest.mark.parametrize("size", [11, 300_000])
def test_limit(store: ObjectStore, size: int) -> None:
    store.put("a", bytes(10), limit=10)
    for body in (bytes(size), (b"x" for _ in range(size))):
        with pytest.raises(TooLong):
            store.put("b", body, limit=10)
    with pytest.raises(TooLong):
        store.put("a", bytes(size), limit=10)
    assert keys(store, "") == ["a"]
    assert content(store, "a") == bytes(10)


def test_a_broken_stream_stores_nothing(store: ObjectStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError("gone")

    store.put("a/old", b"old")
    for key in ("a/new", "a/old"):
        with pytest.raises(ConnectionResetError):
            store.put(key, broken())
    assert keys(store, "") == ["a/old"]
    assert content(store, "a/old") == b"old"


def test_list_is_ordered_and_whole_segments(store: ObjectStore) -> None:
    names = ["a/b/2", "a/b/10", "a-b", "a/b-c", "a/b.c", "a/b/é", "a/b/z", "ab/c", "a/b/2-", "z"]
    for name in names:
        store.put(name, b"")
    assert keys(store, "") == sorted(names, key=str.encode)
    assert keys(store, "a/b") == ["a/b/10", "a/b/2", "a/b/2-", "a/b/z", "a/b/é"]
    assert keys(store, "a") == sorted((name for name in names if name.startswith("a/")), key=str.encode)


def test_delete_takes_the_object_or_everything_below(store: ObjectStore) -> None:
    for name in ("a/b/1", "a/b/c/2", "a/bb", "a/c", "d"):
        store.put(name, b"")
    store.delete("a/b")
    assert keys(store, "") == ["a/bb", "a/c", "d"]
    store.delete("a/c")
    store.delete("d")
    assert keys(store, "") == ["a/bb"]
    store.put("a/b", b"a name that was a directory")
    assert keys(store, "a") == ["a/b", "a/bb"]


def test_delete_of_a_big_tree(store: ObjectStore, request: pytest.FixtureRequest) -> None:
    # More than one page of a listing; less where each object costs 40 ms.
    objects = 150 if "swift" in request.node.name else 1050
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: store.put(f"jobs/x/1/logs/out/{n // 100}/{n:015d}", b""), range(objects)))
    store.put("jobs/" + "d/" * 60 + "deep", b"")
    assert len(keys(store, "jobs/x")) == objects
    store.delete("jobs")
    assert keys(store, "") == []


@pytest.mark.parametrize(
    "key",
    [
        "a b",
        "%2e%2e",
        "a%2Fb",
        "ünï/cödé/星",
        "..a",
        "a..",
        "-",
        "~",
        "a\\b",
        "'\"$(x)`;|&<>*?[]{}",
        "x" * 255,
        " ",
        "#?=&",
    ],
)
def test_odd_keys(store: ObjectStore, key: str) -> None:
    store.put(f"jobs/{key}/x", b"1")
    store.put(f"jobs/{key}/y/{key}", b"22")
    assert keys(store, "jobs") == keys(store, f"jobs/{key}") == [f"jobs/{key}/x", f"jobs/{key}/y/{key}"]
    assert content(store, f"jobs/{key}/y/{key}") == b"22"
    link = urlsplit(store.sign("GET", f"jobs/{key}/x", 60))
    assert unquote(link.path).endswith(f"/jobs/{key}/x")
    store.delete(f"jobs/{key}")
    assert keys(store, "") == []


@pytest.mark.covers("3:bad-path")
@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "../a",
        "a/..",
        "/etc/passwd",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\ufffe",
        "a\uffff",
        "\udcff",
        "x" * 256,
        "é" * 128,
        "/".join(["x" * 100] * 11),
        "/".join("x" * 65),
    ],
)
def test_refused_keys(store: ObjectStore, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, b""),
        lambda: store.read(key),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.sign("GET", key, 60),
    ]
    if key:  # list("") is everything
        calls.append(lambda: keys(store, key))
    for call in calls:
        with pytest.raises(ValueError, match="key"):
            call()


def test_no_key_begins_another(store: ObjectStore) -> None:
    """Where nobody sees that, as in Swift, nothing is lost by it."""
    store.put("a/b", b"first")
    stored = {"a/b": b"first"}
    for key in ("a/b/c", "a"):
        with suppress(ValueError):
            store.put(key, b"second")
            stored[key] = b"second"
    assert {key: content(store, key) for key in keys(store, "")} == stored


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("key", ["a/b/c", "a"])
def test_files_have_no_key_that_begins_another(linked: ObjectStore, key: str, create: bool) -> None:
    linked.put("a/b", b"")
    with pytest.raises(ValueError, match="beginning"):
        linked.put(key, b"", create=create)
    assert keys(linked, "") == ["a/b"]


def test_puts_and_deletes_at_once(store: ObjectStore) -> None:
    """A delete that empties directories never fails a put into them."""
    done = threading.Event()
    failures: list[BaseException] = []

    def putting() -> None:
        try:
            for n in range(150):
                store.put(f"a/b/c/{n}", b"x" * n)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=putting)
    thread.start()
    while not done.is_set():
        store.delete("a/b")
    thread.join()
    assert failures == []
    store.put("a/b/last", b"")
    assert keys(store, "a/b")[-1] == "a/b/last"


def parts(url: str) -> tuple[str, str, str, str]:
    """Key, expires, limit and signature of a link."""
    link = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(link.query, keep_blank_values=True).items()}
    key = unquote(link.path).removeprefix("/storage/v1/")
    return key, query["expires"], query["limit"], query["signature"]


def test_links_permit_what_they_say(linked: ObjectStore, links: Links) -> None:
    get = parts(linked.sign("GET", "a/b", 60))
    assert links.verify("GET", *get) is links.verify("HEAD", *get) is None
    put = parts(linked.sign("PUT", "a/b", 60, limit=10))
    assert links.verify("PUT", *put) == 10
    assert links.verify("PUT", *parts(linked.sign("PUT", "a/b", 60, limit=0))) == 0


def test_links_permit_nothing_else(linked: ObjectStore, links: Links) -> None:
    key, expires, limit, signature = parts(linked.sign("PUT", "a/b", 60, limit=10))
    wrong = [
        ("GET", key, expires, limit, signature),
        ("HEAD", key, expires, limit, signature),
        ("PUT", "a/c", expires, limit, signature),
        ("PUT", key, str(int(expires) + 1), limit, signature),
        ("PUT", key, expires, "11", signature),
        ("PUT", key, expires, "", signature),
        ("PUT", key, f"{expires}\n{limit}", "", signature),
        ("PUT", key, expires, limit, ""),
        ("PUT", key, expires, limit, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        ("PUT", key, expires, limit, "é\udcff"),
        ("PUT", key, "", "", ""),
    ]
    for attempt in wrong:
        with pytest.raises(BadLink, match="not valid"):
            links.verify(*attempt)
    other = Links(b"t" * 32)
    with pytest.raises(BadLink, match="not valid"):
        other.verify("PUT", key, expires, limit, signature)


def test_links_expire() -> None:
    instant = 1_000_000
    links = Links(SECRET, clock=lambda: instant)
    link = parts(links.sign("GET", "a", 60))
    instant += 59_999
    links.verify("GET", *link)
    instant += 1
    with pytest.raises(BadLink, match="expired"):
        links.verify("GET", *link)


def test_weak_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Links(b"short")


@pytest.mark.parametrize(
    "url", ["s4://bucket", "", "/var/lib", "file://elsewhere/x", "file:relative", "file:"]
)
def test_unknown_urls(links: Links, url: str) -> None:
    with pytest.raises(ValueError, match="file:///"):
        open_store(url, links)


# Objects in parts, where the store has that -------------------------------------------------------

PART = 5 * 1024**2  # the least that S3 takes of any part but the last
LARGE = bytes(range(256)) * (12 * 1024**2 // 256)


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, s3_servers: Callable[[str], S3Server]) -> S3Server:
    return s3_servers(request.param)


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return server.bucket("of/ours")


@pytest.fixture
def parted(bucket: Bucket) -> S3Store:
    return S3Store(bucket, part_bytes=PART)


@pytest.fixture
def uploads(parted: S3Store) -> Uploads:
    assert parted.uploads is not None
    return parted.uploads


def put(link: str, body: bytes) -> int:
    """The status of the answer."""
    request = urllib.request.Request(link, body, {"Content-Type": "text/plain"}, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code


def put_part(uploads: Uploads, key: str, upload: str, number: int) -> None:
    part = LARGE[(number - 1) * PART : number * PART]
    assert put(uploads.sign(key, upload, number, 60, len(part)), part) == 200


def unfinished(bucket: Bucket) -> list[str]:
    """The paths of the uploads in the bucket that have begun and not ended."""
    assert bucket.key is not None
    answer = ask(bucket, bucket.key, "GET", "", {"uploads": ""})
    return [str(one.findtext("{*}Key")) for one in answer.iterfind("{*}Upload")]


@pytest.mark.covers("4:object-store-parts")
def test_a_store_without_parts_says_so(linked: ObjectStore) -> None:
    assert linked.uploads is None


@pytest.mark.covers("4:object-store-parts")
def test_parts_become_the_object_when_all_is_there(parted: S3Store, uploads: Uploads, bucket: Bucket) -> None:
    key = "jobs/a/1/results/x ü+&%.bin"
    upload = uploads.begin(key)
    assert uploads.parts(key, upload) == []
    for number in (3, 1, 2):  # in any order
        put_part(uploads, key, upload, number)
    put_part(uploads, key, upload, 1)  # and again
    assert keys(parted, "") == []
    there = uploads.parts(key, upload)
    assert [(part.number, part.size) for part in there] == [(1, PART), (2, PART), (3, len(LARGE) - 2 * PART)]
    uploads.complete(key, upload, there)
    assert content(parted, key) == LARGE
    assert parted.head(key).size == len(LARGE)
    assert unfinished(bucket) == []


@pytest.mark.covers("4:object-store-parts")
def test_a_link_to_a_part_permits_that_part_alone(uploads: Uploads) -> None:
    upload = uploads.begin("a/b")
    link = uploads.sign("a/b", upload, 1, 60, 5)
    for wrong in (b"four", b"longer", b""):
        assert put(link, wrong) == 403
    assert put(link.replace("partNumber=1", "partNumber=2"), b"right") == 403
    assert put(link.replace("/a/b?", "/a/c?"), b"right") == 403
    assert put(uploads.sign("a/b", upload, 1, -1, 5), b"right") in {400, 403}
    assert uploads.parts("a/b", upload) == []
    assert put(link, b"right") == 200
    assert [part.number for part in uploads.parts("a/b", upload)] == [1]


@pytest.mark.covers("4:object-store-parts")
def test_parts_replace_no_object(parted: S3Store, uploads: Uploads) -> None:
    upload = uploads.begin("a/b")
    for number in (1, 2, 3):
        put_part(uploads, "a/b", upload, number)
    there = uploads.parts("a/b", upload)
    parted.put("a/b", b"before")
    with pytest.raises(Exists):
        uploads.complete("a/b", upload, there)
    assert content(parted, "a/b") == b"before"
    parted.delete("a/b")
    upload = uploads.begin("a/b")
    for number in (1, 2, 3):
        put_part(uploads, "a/b", upload, number)
    there = uploads.parts("a/b", upload)
    uploads.complete("a/b", upload, there)
    with suppress(Exists, NotStored):  # said again, as after a lost reply
        uploads.complete("a/b", upload, there)
    assert content(parted, "a/b") == LARGE


@pytest.mark.covers("4:object-store-parts")
def test_one_upload_of_a_key_is_unfinished(uploads: Uploads, bucket: Bucket) -> None:
    other = uploads.begin("a/bc")
    first = uploads.begin("a/b")
    put_part(uploads, "a/b", first, 1)
    second = uploads.begin("a/b")
    assert uploads.parts("a/b", second) == []
    for upload in (first, other, "none", "../a&b<"):  # ended, of another key, never begun
        with pytest.raises(NotStored):
            uploads.parts("a/b", upload)
        with pytest.raises(NotStored):
            uploads.complete("a/b", upload, [Part(1, PART, "0" * 32)])
    assert sorted(unfinished(bucket)) == ["of/ours/a/b", "of/ours/a/bc"]


@pytest.mark.covers("4:object-store-parts")
def test_delete_ends_unfinished_uploads(parted: S3Store, uploads: Uploads, bucket: Bucket) -> None:
    for key in ("jobs/a/1/results/x", "jobs/a/2/results/x ü ", "jobs/ab/1/results/x", "jobs/a-b"):
        put_part(uploads, key, uploads.begin(key), 1)
    parted.put("jobs/a/1/results/y", b"1")
    parted.delete("jobs/a")
    assert sorted(unfinished(bucket)) == ["of/ours/jobs/a-b", "of/ours/jobs/ab/1/results/x"]
    parted.delete("jobs/a-b")
    assert unfinished(bucket) == ["of/ours/jobs/ab/1/results/x"]
    assert keys(parted, "") == []


@pytest.mark.covers("4:object-store-parts")
def test_no_more_parts_than_s3_takes() -> None:
    uploads = S3Uploads(Bucket("b", key=Key("id", "secret")), Key("id", "secret"), PART)
    for size in (0, PART, 12 * 1024**2, 10_000 * PART):
        assert uploads.part_bytes(size) == PART
    for size in (10_000 * PART + 1, 1024**4, 10_000 * 5 * 1024**3):
        part = uploads.part_bytes(size)
        assert PART < part <= 5 * 1024**3
        assert -(-size // part) <= 10_000
    with pytest.raises(TooLong, match="more than S3 takes"):
        uploads.part_bytes(10_000 * 5 * 1024**3 + 1)


# The file store alone -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, links: Links) -> FileStore:
    return FileStore(tmp_path / "root", links)


def test_the_file_is_where_its_key_says(files: FileStore, tmp_path: Path) -> None:
    files.put("jobs/x/1/results/table ü.csv", b"a,b\n")
    assert (tmp_path / "root/objects/jobs/x/1/results/table ü.csv").read_bytes() == b"a,b\n"
    assert list((tmp_path / "root/tmp").iterdir()) == []


def test_links_in_the_tree_are_not_followed(files: FileStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    files.put("jobs/x/real", b"")
    (tmp_path / "root/objects/jobs/x/link").symlink_to(outside)
    (tmp_path / "root/objects/jobs/x/file").symlink_to(outside / "secret")
    os.mkfifo(tmp_path / "root/objects/jobs/x/pipe")
    for key in ("jobs/x/link/secret", "jobs/x/file", "jobs/x/link", "jobs/x/pipe"):
        with pytest.raises(NotStored):
            files.read(key)
    with pytest.raises(ValueError, match="beginning"):
        files.put("jobs/x/link/new", b"")
    files.put("jobs/x/file", b"new")  # replaces the link itself
    assert keys(files, "") == ["jobs/x/file", "jobs/x/real"]
    assert keys(files, "jobs/x/link") == []
    files.delete("jobs/x/link/secret")
    files.delete("jobs")
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_what_a_killed_process_left_is_swept(files: FileStore, tmp_path: Path, links: Links) -> None:
    old, young = tmp_path / "root/tmp/old", tmp_path / "root/tmp/young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    FileStore(tmp_path / "root", links)
    assert not old.exists()
    assert young.exists()


def test_put_syncs_the_file_and_every_new_directory(
    files: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root/objects"
    synced: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    files.put("a/b/c", b"x")
    assert synced[0].startswith(str(tmp_path / "root/tmp/"))  # before it has its name
    assert synced[1:] == [str(root), str(root / "a"), str(root / "a/b")]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, links: Links) -> None:
    script = f"""
import resource
from pathlib import Path
from uws_server.storage.base import StorageUnavailable
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FileStore(Path({str(tmp_path)!r}), Links(b"s" * 32))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put("a/b", b"x" * 2000)
except StorageUnavailable as error:
    print("unavailable", list(store.list("")))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert run.stdout == "unavailable []\n"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    """200 MB go through a process that may have 160 MB of address space above what it starts with."""
    script = f"""
import resource
from pathlib import Path
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
store = FileStore(Path({str(tmp_path)!r}), Links(b"s" * 32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunk = bytes(1024 * 1024)
store.put("a", (chunk for _ in range(200)))
assert sum(len(part) for part in store.read("a")) == 200 * len(chunk)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert int(run.stdout) < 16  # MiB


def test_a_slow_disk_holds_up_no_greenlet(tmp_path: Path) -> None:
    """With the web's way aside, other greenlets go on while a put waits for the disk."""
    script = f"""
from gevent import monkey, sleep, spawn
monkey.patch_all()
import os
from pathlib import Path
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
from uws_server.web.storage import beside_greenlets
wait = monkey.get_original("time", "sleep")
os.fsync = lambda descriptor: wait(0.2)
ticks = []
def tick():
    while True:
        ticks.append(1)
        sleep(0.01)
spawn(tick)
FileStore(Path({str(tmp_path)!r}), Links(b"s" * 32), beside_greenlets).put("a/b", b"x")
print(len(ticks))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert int(run.stdout) > 10


def test_descriptors_are_given_back(files: FileStore) -> None:
    files.put("a/b", bytes(1_000_000))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        next(iter(files.read("a/b")))
        list(files.read("a/b"))
        files.head("a/b")
        list(files.list(""))
        files.delete("c")
    assert len(list(Path("/proc/self/fd").iterdir())) == before < soft


def test_descriptors_are_given_back_at_once_among_greenlets(tmp_path: Path) -> None:
    script = f"""
from gevent import monkey, get_hub
monkey.patch_all()
import resource
from pathlib import Path
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links

get_hub()
store = FileStore(Path({str(tmp_path)!r}), Links(b"s" * 32))
store.put("a/b/c/d", b"x")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for _ in range(200):
    assert store.head("a/b/c/d").size == 1
    assert b"".join(store.read("a/b/c/d")) == b"x"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)


def test_a_store_that_cannot_be_made(tmp_path: Path, links: Links) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((StorageUnavailable, NotADirectoryError)):
        FileStore(tmp_path / "file" / "root", links)


def test_the_memory_store_is_a_double_of_the_file_store() -> None:
    public = {name for name in vars(FileStore) if not name.startswith("_")}
    assert public == {name for name in vars(MemoryStore) if not name.startswith("_")}
