"""Answers of a store, or of what stands before it, that must not be taken for a yes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from uws_server.storage.base import Part, StorageUnavailable, Uploads
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.s3_uploads import S3Uploads
from uws_server.storage.sigv4 import Key

pytestmark = pytest.mark.covers("4:object-store-parts")

BEGUN = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
NO_UPLOADS = b"<ListMultipartUploadsResult></ListMultipartUploadsResult>"
PARTS = (
    b'<?xml version="1.0"?>\n<ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    + b"".join(
        b'<Part><PartNumber>%d</PartNumber><ETag>"e"</ETag><Size>5000</Size></Part>' % number
        for number in range(1, 11)
    )
    + b"</ListPartsResult>"
)
COMPLETED = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
LOGIN = b"<html><body>Please log in</body></html>"
ALL_PARTS = [Part(number, 5000, "e") for number in range(1, 11)]


@dataclass
class Answer:
    """``length`` is what is announced: the body's own, another, or none for -1."""

    body: bytes
    status: int = 200
    length: int | None = None


@dataclass
class Store:
    """Answers in the place of S3; what it was asked is kept, a method and the names in the query each."""

    answer: Callable[[str], Answer] = field(default=lambda _: Answer(b""))
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""

    def says(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.answer = lambda _: Answer(body, status, length)

    def uploads(self) -> Uploads:
        key = Key("id", "secret")
        return S3Uploads(Bucket("bucket", endpoint=self.endpoint, key=key), key)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            step = " ".join([self.command, *(name for name in query if not name.startswith("X-Amz"))])
            made.asked.append(step)
            given = made.answer(step)
            self.send_response(given.status)
            if given.length != -1:
                length = len(given.body) if given.length is None else given.length
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(given.body)

        do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815 - the names are the library's

        def log_message(self, *_: object) -> None:
            """Tests tell what went wrong."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("length", [None, -1])
def test_a_whole_answer_is_one(store: Store, length: int | None) -> None:
    store.says(PARTS + b"\n", length=length)
    assert store.uploads().parts("k", "u") == ALL_PARTS


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    "cut",
    [
        PARTS.index(b"</Size>", 500) - 2,  # within a number
        PARTS.index(b"<Part>", 500),  # between two parts
        PARTS.index(b"<Size>", 500) + len(b"<Size>"),
    ],
)
def test_a_cut_list_is_asked_for_again(store: Store, cut: int, announced: bool) -> None:
    answers = [Answer(PARTS[:cut], length=len(PARTS) if announced else -1), Answer(PARTS)]
    store.answer = lambda _: answers.pop(0)
    assert store.uploads().parts("k", "u") == ALL_PARTS


@pytest.mark.parametrize("body", [b"", LOGIN, b"garbage", b"<a:b/>", b"<!-- -->", COMPLETED[:-9]])
def test_nothing_is_complete_without_a_word(store: Store, body: bytes) -> None:
    answers = [Answer(body), Answer(COMPLETED)]
    store.answer = lambda _: answers.pop(0)
    store.uploads().complete("k", "u", ALL_PARTS)
    assert answers == []


def test_an_answer_that_never_comes_whole_is_none(store: Store) -> None:
    store.says(PARTS[:-30])
    with pytest.raises(StorageUnavailable, match="cannot be understood"):
        store.uploads().parts("k", "u")


@pytest.mark.parametrize(
    "wrong",
    [
        BEGUN.replace(b"u</", b"</"),
        PARTS.replace(b"<Size>5000<", b"<Size><", 1),
        PARTS.replace(b"<PartNumber>1<", b"<PartNumber>one<", 1),
    ],
)
def test_what_is_no_number_and_no_id_is_said_as_an_outage(store: Store, wrong: bytes) -> None:
    store.says(wrong)
    uploads = store.uploads()
    with pytest.raises(StorageUnavailable, match="cannot be understood"):
        uploads.begin("k") if b"Initiate" in wrong else uploads.parts("k", "u")


@pytest.mark.parametrize("moves", [False, True])
def test_lists_that_do_not_end_are_given_up(store: Store, moves: bool) -> None:
    marker = b"<NextPartNumberMarker>10</NextPartNumberMarker><NextKeyMarker>k</NextKeyMarker>"
    more = b"<IsTruncated>true</IsTruncated>" + (marker if moves else b"")

    def answer(step: str) -> Answer:
        if len(store.asked) > 10:
            return Answer(b"<Error><Code>NoSuchUpload</Code></Error>", 404)
        if step.startswith("POST"):
            return Answer(BEGUN)
        return Answer((NO_UPLOADS if "uploads" in step else PARTS).replace(b"</List", more + b"</List"))

    store.answer = answer
    with pytest.raises(StorageUnavailable, match="cannot be understood"):
        store.uploads().parts("k", "u")
    with pytest.raises(StorageUnavailable, match="cannot be understood"):
        store.uploads().begin("k")
