"""The object store in an S3 bucket, with obstore's client and links that we sign ourselves.

Three things are as they are for a reason. What a server streams to us is gathered first, in memory or
beyond `PART` in a file without a name: no upload begins that its sender could still break off, and obstore
never calls back into Python from a thread of its own. Every call that may wait for the network is run
``aside``, so that a server of greenlets goes on while S3 is slow. And "not found" is believed only when the
answer says that the key is missing: a bucket that is gone and a key that one server no longer knows are
404 as well, and whoever takes that for a missing object gives up a job.
"""

from __future__ import annotations

import builtins
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import S3Store as Client

from uws_server.storage.base import Aside, Exists, NotStored, StorageUnavailable, Stored, TooLong, directly
from uws_server.storage.keys import segments
from uws_server.storage.links import now
from uws_server.storage.s3_bucket import PART_BYTES, SENTENCES, Bucket
from uws_server.storage.s3_uploads import S3Uploads
from uws_server.storage.sigv4 import presigned

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta, PutResult

CHUNK = 256 * 1024
PART = 8 * 1024**2
"""Bytes that are sent in one request; what is longer goes in parts of this size."""

_LARGEST_PUT = 5 * 1024**3
_MOST_PARTS = 10_000  # of one object, says S3
_PARTS_AT_ONCE = 4
_PAGE = 1000  # keys in one answer
_LONGEST_PREFIX = 100
_CONNECT = timedelta(seconds=5)
_SILENCE = timedelta(seconds=20)  # without a byte from the store
_WHOLE = timedelta(hours=12)  # a client may take a result as slowly as it likes
_RETRIES = 3
_TRIES = 5
_RETRY_SECONDS = timedelta(seconds=15)

_ANSWER = re.compile(r"non-2xx status code: (\d{3})[^:\n]*: ?(.*)", re.DOTALL)
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_ABSENT = frozenset({"NoSuchKey"})
_UNANSWERED = (
    ("dns error", "the name of its host is not known"),
    ("TimedOut", "it does not answer in time"),
    ("Timeout", "it does not answer in time"),
    ("certificate", "its certificate cannot be trusted"),
    ("Connect,", "nobody answers at that address"),
    ("metadata", "no access key is set, and this machine has none to give"),
)

_T = TypeVar("_T")


class S3Store:
    """An object store below a prefix of a bucket, where what is longer than ``part_bytes`` is PUT in parts.

    There are no `Uploads` with an access key that obstore has found by itself, for that one cannot sign them.

    :raises ValueError: the prefix cannot be part of keys.
    """

    def __init__(self, bucket: Bucket, aside: Aside = directly, part_bytes: int = PART_BYTES) -> None:
        if bucket.prefix:
            segments(bucket.prefix)
            if len(bucket.prefix.encode()) > _LONGEST_PREFIX:
                raise ValueError(f"the prefix {bucket.prefix!r} is longer than {_LONGEST_PREFIX} bytes")
        self._bucket = bucket
        self._aside = aside
        self._below = bucket.below
        self.uploads = None if bucket.key is None else S3Uploads(bucket, bucket.key, part_bytes)
        self._creates = True  # until the server says that it has no such write
        self._client = _client(bucket, bucket.address)
        self._public = _client(bucket, bucket.public_endpoint.rstrip("/") or bucket.address)

    def put(
        self, key: str, content: bytes | Iterable[bytes], limit: int | None = None, *, create: bool = False
    ) -> Stored:
        """See `ObjectStore.put`."""
        path = self._bucket.path(key)
        with tempfile.SpooledTemporaryFile(max_size=PART) as gathered:
            size = 0
            for chunk in (content,) if isinstance(content, bytes) else content:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLong(f"the content of {key} is longer than {limit} bytes")
                if size <= PART:
                    gathered.write(chunk)
                else:  # to a disk
                    self._aside(lambda: _write(gathered, chunk))  # noqa: B023 - run before the next turn
            gathered.seek(0)
            etag = self._send(path, cast("IO[bytes]", gathered), size, create=create)
        # By our clock, as the answer does not say; asking would be one more request for each object.
        return Stored(key, size, now(), etag)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"no range of bytes: {start} to {end}")
        if end == start:
            self.head(key)
            return iter(())
        wanted: GetOptions = {}
        if end is not None:
            wanted = {"range": (start, end)}
        elif start:
            wanted = {"range": {"offset": start}}
        try:
            found = self._get(self._bucket.path(key), wanted)
        except _BeyondEnd:
            self.head(key)
            return iter(())
        return self._chunks(found)

    def head(self, key: str) -> Stored:
        """See `ObjectStore.head`."""
        path = self._bucket.path(key)
        try:
            meta = self._ask(path, lambda: obstore.head(self._client, path))
        except _Unexplained:  # an answer to HEAD has no words; the one to GET says what is missing
            meta = self._get(path, {}).meta
        return self._stored(meta)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `ObjectStore.list`."""
        path = self._bucket.path(prefix) if prefix else self._bucket.prefix
        # Servers differ in how they order; what lies below one prefix of ours fits in memory.
        found = [self._stored(meta) for page in self._pages(path) for meta in page]
        yield from sorted(found, key=lambda stored: stored.key.encode())

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`. A store that refuses to end uploads loses its objects all the same."""
        path = self._bucket.path(prefix)
        refusal = None
        if self.uploads is not None:  # first, so that none becomes an object behind our back
            try:
                self.uploads.abort(prefix)
            except StorageUnavailable as error:
                refusal = error
        for page in self._pages(path):
            self._remove([meta["path"] for meta in page])
        self._remove([path])
        if refusal is not None:
            raise refusal

    def sign(
        self,
        method: Literal["GET", "PUT"],
        key: str,
        seconds: int,
        limit: int | None = None,
        *,
        public: bool = False,
        media_type: str = "",
    ) -> str:
        """See `ObjectStore.sign`. What is PUT must have exactly ``limit`` bytes, and replaces what is there.

        Not every S3 has create-only writes, and none tells a repeated PUT from another one. With an access
        key that obstore has found by itself, neither length nor media type can be signed.
        """
        path = self._bucket.path(key)
        bucket = self._bucket
        if method == "PUT" and limit is not None and limit > _LARGEST_PUT:
            raise TooLong(f"{limit} bytes are more than S3 takes at once, which is {_LARGEST_PUT}")
        if bucket.key is None:
            client = self._public if public else self._client
            return self._ask(path, lambda: obstore.sign(client, method, path, timedelta(seconds=seconds)))
        base = (bucket.public_endpoint.rstrip("/") if public else "") or bucket.address
        url = f"{base}/{bucket.name}/{quote(path, safe='/-._~')}"
        headers = {} if limit is None or method == "GET" else {"content-length": str(limit)}
        query = {"response-content-type": media_type} if media_type and method == "GET" else {}
        at = datetime.now(UTC)
        return presigned(method, url, bucket.key, bucket.region, seconds, at, headers=headers, query=query)

    def _stored(self, meta: ObjectMeta) -> Stored:
        modified = int(meta["last_modified"].timestamp() * 1000)
        key = meta["path"].removeprefix(self._below)
        return Stored(key, meta["size"], modified, _etag(meta["e_tag"]))

    def _send(self, path: str, file: IO[bytes], size: int, *, create: bool) -> str:
        """Store a whole file; the etag."""
        if create and not (self._creates and size <= PART):  # parts cannot be put together on a condition
            with suppress(NotStored):
                self.head(path.removeprefix(self._below))
                raise Exists(path.removeprefix(self._below))
            create = False
        part = max(PART, -(-size // _MOST_PARTS))
        content: IO[bytes] | bytes = file if size > PART else file.read()

        def send() -> PutResult:
            file.seek(0)
            return obstore.put(
                self._client,
                path,
                content,
                mode="create" if create else "overwrite",
                chunk_size=part,
                max_concurrency=_PARTS_AT_ONCE,
                use_multipart=size > PART,
            )

        for left in reversed(range(_TRIES)):
            try:
                return _etag(self._ask(path, send)["e_tag"])
            except _NotOffered:
                self._creates = False
                file.seek(0)
                return self._send(path, file, size, create=create)
            except (
                _InTheWay,
                NotStored,
            ):  # a delete took the directory away that the server was about to use
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _get(self, path: str, wanted: GetOptions) -> GetResult:
        return self._ask(path, lambda: obstore.get(self._client, path, options=wanted))

    def _chunks(self, found: GetResult) -> Iterator[bytes]:
        stream = iter(found.stream(min_chunk_size=CHUNK))
        path = found.meta["path"]
        while chunk := self._ask(path, lambda: next(stream, b"")):
            for at in range(0, len(chunk), 4 * CHUNK):
                yield bytes(chunk[at : at + 4 * CHUNK])

    def _pages(self, path: str) -> Iterator[Iterable[ObjectMeta]]:
        stream = iter(obstore.list(self._client, path or None, chunk_size=_PAGE))
        while page := self._ask(path, lambda: next(stream, ())):
            yield page

    def _remove(self, paths: builtins.list[str]) -> None:
        try:
            self._ask("", lambda: obstore.delete(self._client, paths))
        except NotStored:  # some servers mind what is not there
            return

    def _ask(self, path: str, call: Callable[[], _T]) -> _T:
        """Run one call of obstore aside and put what goes wrong in our words.

        :raises NotStored: S3 says that there is no such key.
        :raises StorageUnavailable: whatever else.
        """
        answers: builtins.list[_T] = []
        try:
            self._aside(lambda: answers.append(call()))
        except (BaseError, OSError, NotImplementedError) as error:
            raise self._told(path, error) from None  # the chain would show the request, and so a signature
        return answers[0]

    def _told(self, path: str, error: Exception) -> Exception:
        said = str(error)
        # What stands before is our own key, which a user may have named like an answer.
        said = (said.partition(path)[2] if path else "") or said
        summary, _, detail = said.partition("\n\nDebug source:")
        answer = _ANSWER.search(summary)
        where = self._bucket.said
        if answer is None:
            found = (sentence for words, sentence in _UNANSWERED if words in detail or words in summary)
            return StorageUnavailable(f"{where}: {next(found, 'the connection broke off')}")
        status, body = answer[1], answer[2]
        named = _CODE.search(body)
        code = named[1] if named else ""
        key = path.removeprefix(self._below)
        if code in _ABSENT:
            return NotStored(key)
        if status == "416":
            return _BeyondEnd(key)
        if code in {"PreconditionFailed", "ConditionalRequestConflict"}:
            return Exists(key)
        if status == "501":
            return _NotOffered(f"{where}: it does not offer that")
        if code in {"ObjectParentIsFile", "ExistingObjectIsDirectory"}:
            return _InTheWay(f"the key {key} is the beginning of another, or another of it")
        sentence = SENTENCES.get(code, f"it answered {status}{f' ({code})' if code else ''}")
        kind = (
            _Unexplained
            if not code and isinstance(error, FileNotFoundError | PermissionDeniedError)
            else None
        )
        return (kind or StorageUnavailable)(f"{where}: {sentence}")


class _BeyondEnd(Exception):
    """The range that was asked for begins where the object ends, or later."""


class _InTheWay(ValueError):
    """A server that keeps objects in files has another one where a directory is needed, or the reverse."""


class _NotOffered(StorageUnavailable):
    """The server has no such request."""


class _Unexplained(StorageUnavailable):
    """S3 refused without a word why."""


def _write(file: tempfile.SpooledTemporaryFile[bytes], chunk: bytes) -> None:
    file.write(chunk)


def _etag(quoted: str | None) -> str:
    return (quoted or "").strip('"')


def _client(bucket: Bucket, endpoint: str) -> Client:
    config: dict[str, Any] = {}
    if bucket.key is not None:
        config = {"access_key_id": bucket.key.id, "secret_access_key": bucket.key.secret}
        if bucket.key.token:
            config["session_token"] = bucket.key.token
    return Client(
        bucket.name,
        endpoint=endpoint,
        region=bucket.region,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": _CONNECT,
            "read_timeout": _SILENCE,
            "timeout": _WHOLE,
        },
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": _RETRY_SECONDS,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3)},
        },
        **config,
    )
