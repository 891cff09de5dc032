"""Fetch an attempt's inputs: bounded in size, memory and time, checked, and resumed where possible.

A source is a URL that a user gave. Redirects are followed by hand, because every hop must be
``http`` or ``https`` to an address that jobs may reach: never the link-local network, where clouds
keep their credentials. The address is checked again on the connected socket, so that a name
which resolves differently the second time gains nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError, SSLError
from urllib3.util import make_headers

from runners.agent.attempt_dir import AttemptDir
from runners.agent.door import Away, Deadline, Door, Refused, backoff, retry_after
from uws_server.domain.runspec import Input
from uws_server.domain.wire import Wanted, upload_name

_CHUNK = 256 * 1024
_CONNECT = 10.0  # s
_AT_ONCE = 4
_MOST_REDIRECTS = 5
_LONGEST_PAUSE = 30.0  # s
_LONGEST_RETRY_AFTER = 300.0  # s
_PROGRESS = 64 * 1024  # bytes after which a failure is a new one
# Where clouds answer questions about the machine, its identity and its keys.
_METADATA = (
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
)


class Unavailable(Exception):
    """An input cannot be had; the message is one sentence. ``transient``: another try may work."""

    def __init__(self, sentence: str, *, transient: bool = False) -> None:
        super().__init__(sentence)
        self.transient = transient


class _Forbidden(Exception):
    """The address is not for jobs."""


class _Again(Exception):
    """This try failed; another one may work, not before ``pause`` seconds when the server said so."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def stage_in(attempt: AttemptDir) -> dict[str, Any]:
    """Fill ``work/inputs``; what came of it, as it stands in ``stage-in.json``.

    :raises Fenced: the attempt is no longer wanted.
    """
    answer: dict[str, Any] = {"ok": True, "message": "", "detail": "", "transient": False, "inputs": []}
    try:
        answer["inputs"] = _Staging(attempt).run()
    except Unavailable as error:
        answer.update(ok=False, message=str(error), transient=error.transient)
    except OSError as error:
        answer.update(ok=False, message=f"The inputs could not be written: {error.strerror}.", transient=True)
    return answer


def shown(url: str) -> str:
    """A URL for people to read: scheme, host and path, without credentials, query or odd characters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a broken URL"
    text = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return "".join(character if character.isprintable() else "?" for character in text[:300])


def recorded(url: str) -> str:
    """A URL for the manifest: all of it but the credentials before the host."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def refuse_address(address: str, denied: tuple[str, ...] = ()) -> None:
    """Check an address that a source's name stands for.

    :raises _Forbidden: jobs may not reach it.
    """
    numbers = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(numbers, ipaddress.IPv6Address):
        inner = numbers.ipv4_mapped or numbers.sixtofour
        if numbers in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(numbers) & 0xFFFFFFFF)
        if inner is not None:
            refuse_address(str(inner), denied)
    networks = [ipaddress.ip_network(text) for text in (*_METADATA, *denied)]
    if numbers.is_multicast or numbers.is_unspecified or any(numbers in network for network in networks):
        raise _Forbidden(address)


def guarded_pool(denied: tuple[str, ...]) -> urllib3.PoolManager:
    """A connection pool that refuses addresses which are not for jobs, certificates verified."""

    def check(host: str, port: int | None) -> None:
        try:
            answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        except OSError:
            return  # connecting will tell
        for answer in answers:
            refuse_address(str(answer[4][0]), denied)

    def connected(connection: socket.socket) -> socket.socket:
        try:
            refuse_address(str(connection.getpeername()[0]), denied)
        except BaseException:
            connection.close()
            raise
        return connection

    class GuardedHTTP(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            check(self.host, self.port)
            return connected(super()._new_conn())

    class GuardedHTTPS(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            check(self.host, self.port)
            return connected(super()._new_conn())

    class HTTPPool(HTTPConnectionPool):
        ConnectionCls = GuardedHTTP

    class HTTPSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedHTTPS

    pool = urllib3.PoolManager(retries=False, cert_reqs="CERT_REQUIRED")
    pool.pool_classes_by_scheme = {"http": HTTPPool, "https": HTTPSPool}
    return pool


class _Budget:
    """Bytes that all inputs together may still take."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise Unavailable("The inputs together are larger than the job's disk.")


class _Part:
    """A file on its way: what has come so far, its checksum, and what it is a part of."""

    def __init__(self, file: int, item: Input, budget: _Budget) -> None:
        self._file = file
        self._item = item
        self._budget = budget
        self._hash = hashlib.sha256()
        self.size = 0
        self.validator: str | None = None

    def add(self, chunk: bytes) -> None:
        self.expect(len(chunk))
        self._budget.take(len(chunk))
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._file, left) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def expect(self, more: int) -> None:
        if self.size + more > self._item.max_bytes:
            raise Unavailable(
                f"Input '{self._item.path}' from {shown(self._item.source)} is larger than its limit of "
                f"{self._item.max_bytes} bytes."
            )

    def restart(self) -> None:
        self._budget.take(-self.size)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0
        self.validator = None

    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Staging:
    """One run of stage-in."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt = attempt
        self._access = attempt.access
        self._door = Door(attempt.access, Deadline(), threads=_AT_ONCE)
        self._sources = guarded_pool(tuple(attempt.access.deny_networks))
        self._uploads = urllib3.PoolManager(retries=False, cert_reqs="CERT_REQUIRED")
        self._budget = _Budget(attempt.spec.resources.disk_bytes)
        self._end = time.monotonic() + attempt.access.stage_in_seconds
        self._stop = threading.Event()

    def run(self) -> list[dict[str, Any]]:
        items = self._attempt.spec.inputs
        self._attempt.inputs.mkdir(parents=True, exist_ok=True)
        paths = Counter(_place(item.path) for item in items)
        for path, count in paths.items():
            if count > 1:
                raise Unavailable(f"Two inputs have the same path '{path}'.")
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            futures = [threads.submit(self._fetch, number, item) for number, item in enumerate(items)]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            self._stop.set()  # those that are still at it, when one failed
            for future in futures:
                if future in done and (error := future.exception()) is not None:
                    raise error
        return [future.result() for future in futures]

    def _fetch(self, number: int, item: Input) -> dict[str, Any]:
        target = self._attempt.inputs / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._attempt.top / f"stage-in.{number}.part"
        temporary.unlink(missing_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            part = _Part(file, item, self._budget)
            self._fill(part, item)
            if item.sha256 is not None and part.sha256() != item.sha256.lower():
                raise Unavailable(
                    f"Input '{item.path}' from {shown(item.source)} has the wrong checksum: sha256 "
                    f"{part.sha256()} instead of {item.sha256}."
                )
            os.fchmod(file, item.mode & 0o777)
            temporary.rename(target)
        finally:
            os.close(file)
            temporary.unlink(missing_ok=True)
        return {
            "path": item.path,
            "source": recorded(item.source),
            "size": part.size,
            "sha256": part.sha256(),
        }

    def _fill(self, part: _Part, item: Input) -> None:
        if item.content is not None:
            part.add(item.content.encode())
            return
        scheme = item.source.partition(":")[0].lower()
        if scheme in {"http", "https"}:
            self._persist(part, item, lambda: self._sources_chunks(part, item))
        elif scheme == "upload":
            self._persist(part, item, lambda: self._upload_chunks(part, item))
        elif scheme == "file" and self._access.file_inputs:
            hidden = (str(self._attempt.top.parent), *self._access.file_hidden)
            for chunk in _file_chunks(item, self._access.file_inputs, hidden):
                self._check_time(item)
                part.add(chunk)
        elif scheme == "file":
            raise Unavailable(f"Input '{item.path}': this site takes no file: sources.")
        else:
            raise Unavailable(
                f"Input '{item.path}': '{shown(scheme)[:20]}' is no source; use http, https or an upload."
            )

    def _persist(self, part: _Part, item: Input, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Add all chunks, with new tries after failures that may pass."""
        failures = 0
        while True:
            before = part.size
            try:
                for chunk in chunks():
                    self._check_time(item)
                    part.add(chunk)
                return
            except _Again as error:
                reason, pause = str(error), error.pause
            except SSLError as error:
                if isinstance(error.args[0], ssl.SSLCertVerificationError):
                    raise self._failed(item, "its certificate could not be verified") from error
                reason, pause = "the encrypted connection failed", None
            except (LocationParseError, ValueError) as error:  # also of urlsplit and of the host's encoding
                raise self._failed(item, "that is no URL") from error
            except HTTPError as error:
                reason, pause = _reason(error), None
            except _Forbidden as error:
                raise self._failed(item, "its address is not one that jobs may reach") from error
            except Away as error:
                raise self._failed(item, str(error), transient=True) from error
            except Refused as error:
                raise self._failed(item, str(error)) from error
            failures = failures + 1 if part.size - before < _PROGRESS else 1
            seconds = backoff(failures, _LONGEST_PAUSE) if pause is None else min(pause, _LONGEST_RETRY_AFTER)
            if failures >= self._access.tries or time.monotonic() + seconds >= self._end:
                raise self._failed(item, reason, transient=True)
            self._stop.wait(seconds)
            self._check_time(item)

    def _sources_chunks(self, part: _Part, item: Input) -> Iterator[bytes]:
        url, headers = item.source, {}
        login = urlsplit(url).netloc.rpartition("@")[0]
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
                raise self._failed(item, f"it redirects to {shown(url)}, which is no http or https URL")
            # Only the host that the user gave them for gets the user's name and password.
            if login and _origin(url) == _origin(item.source):
                headers = make_headers(basic_auth=unquote(login))
            else:
                headers = {}
            response = self._get(self._sources, recorded(url), headers, part)
            location = response.headers.get("Location")
            if response.status not in {301, 302, 303, 307, 308} or location is None:
                yield from self._body(response, part, item)
                return
            response.close()
            url = urljoin(url, location)
        raise self._failed(item, f"it redirects more than {_MOST_REDIRECTS} times")

    def _upload_chunks(self, part: _Part, item: Input) -> Iterator[bytes]:
        name = item.source.partition(":")[2]
        link = self._door.links([Wanted("GET", upload_name(name))])[0]
        response = self._get(self._uploads, link.url, link.headers, part)
        if response.status in {401, 403}:  # bought long ago, as links go
            response.close()
            raise _Again("the link to the upload expired")
        yield from self._body(response, part, item)

    def _get(
        self, pool: urllib3.PoolManager, url: str, headers: dict[str, str], part: _Part
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "uws-server-agent", **headers}
        if part.size and part.validator:
            headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
        elif part.size:
            part.restart()
        timeout = urllib3.Timeout(connect=_CONNECT, read=self._access.stall_seconds)
        return pool.request(
            "GET", url, headers=headers, timeout=timeout, redirect=False, preload_content=False, retries=False
        )

    def _body(self, response: urllib3.BaseHTTPResponse, part: _Part, item: Input) -> Iterator[bytes]:
        """The body's chunks, after what is there already."""
        try:
            where = response.headers.get("Content-Range", "")
            if response.status == 206 and part.size and where.startswith(f"bytes {part.size}-"):
                pass
            elif response.status == 200:
                part.restart()
                part.validator = _validator(response)
            elif response.status in {206, 416}:
                part.restart()
                raise _Again("the server's ranges do not fit")
            else:
                answer = f"the server answered {response.status} {response.reason or ''}".strip()
                if response.status in {408, 425, 429} or response.status >= 500:
                    raise _Again(answer, retry_after(response.headers.get("Retry-After")))
                raise self._failed(item, answer)
            length = response.headers.get("Content-Length", "")
            if length.isdecimal():
                part.expect(int(length))
            while chunk := response.read1(_CHUNK, decode_content=False):
                yield chunk
        finally:
            response.close()

    def _check_time(self, item: Input) -> None:
        if time.monotonic() > self._end:
            raise self._failed(
                item, f"not all inputs came within {self._access.stage_in_seconds:.0f} s", transient=True
            )
        if self._stop.is_set():
            raise self._failed(item, "another input failed", transient=True)

    def _failed(self, item: Input, reason: str, *, transient: bool = False) -> Unavailable:
        sentence = f"Input '{item.path}' could not be had from {shown(item.source)}: {reason.rstrip('.')}."
        return Unavailable(sentence, transient=transient)


def _place(path: str) -> str:
    """The path of an input, which stays beneath the inputs directory."""
    if (
        path.startswith("/")
        or any(part in {"", ".", ".."} for part in path.split("/"))
        or not path.isprintable()
    ):
        raise Unavailable(f"{path[:64]!r} is no path for an input.")
    return path


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname, parts.port


def _validator(response: urllib3.BaseHTTPResponse) -> str | None:
    """What makes a resumed download safe: a strong ETag, or failing that the last change."""
    etag = response.headers.get("ETag")
    if etag is not None and etag.startswith('"'):
        return etag
    return response.headers.get("Last-Modified")


def _reason(error: HTTPError) -> str:
    """A connection's fault in words."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "there is no such host"
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a kind of time-out, to urllib3
        return "the server does not accept connections"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "the server took too long"
    return "the connection broke"


def _file_chunks(item: Input, permitted: Sequence[str], hidden: Sequence[str]) -> Iterator[bytes]:
    """A regular file of this machine, from where the site permits it; never of an attempt, for its tokens."""
    parts = urlsplit(item.source)
    where = f"Input '{item.path}' could not be had from {shown(item.source)}"
    if parts.netloc not in {"", "localhost"} or "\0" in unquote(parts.path):
        raise Unavailable(f"{where}: that is no file of this machine.")

    def check(path: str) -> None:
        if not _beneath(path, permitted) or _beneath(path, hidden):
            raise Unavailable(f"{where}: this site takes files from {', '.join(permitted)} only.")

    path = os.path.realpath(unquote(parts.path))
    check(path)  # before it is opened: opening a device can do something
    try:
        if not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
            raise Unavailable(f"{where}: it is no regular file.")
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{where}: {error.strerror}.") from error
    try:
        check(os.readlink(f"/proc/self/fd/{file}"))  # somebody may have put a link into its path meanwhile
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Unavailable(f"{where}: it is no regular file.")
        while chunk := os.read(file, _CHUNK):
            yield chunk
    finally:
        os.close(file)


def _beneath(path: str, directories: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(os.path.realpath(directory)) for directory in directories)
