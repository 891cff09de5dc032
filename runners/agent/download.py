"""One input on its way: what has come of it so far, within which bounds, and how it goes on."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from runners.agent.connections import Answer
from uws_server.domain.runspec import Input


class Unavailable(Exception):
    """An input cannot be had; the message is one sentence. ``transient``: another try may work."""

    def __init__(self, sentence: str, *, transient: bool = False) -> None:
        super().__init__(sentence)
        self.transient = transient


class Never(Exception):
    """The source will not give the input, however often it is asked; the message says why."""


class Again(Exception):
    """This try failed; another one may work, not before ``pause`` seconds when the server said so."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


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


class Budget:
    """Bytes that all inputs together may still take."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Use some of them, or give them back.

        :raises Unavailable: there are not so many.
        """
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise Unavailable("The inputs together are larger than the job's disk.")


class Part:
    """A file on its way: its ``size`` in bytes so far, its checksum, and what it is a part of."""

    def __init__(self, file: int, item: Input, budget: Budget) -> None:
        self._file = file
        self._item = item
        self._budget = budget
        self._hash = hashlib.sha256()
        self._validator: str | None = None
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Write what came."""
        self._expect(len(chunk))
        self._budget.take(len(chunk))
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._file, left) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def sha256(self) -> str:
        """Of what is there, in hexadecimal digits."""
        return self._hash.hexdigest()

    def wanted(self) -> dict[str, str]:
        """The headers of a request for the rest; for the whole when the rest might be of something else."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "uws-server-agent"}
        if self.size and self._validator:
            return {**headers, "Range": f"bytes={self.size}-", "If-Range": self._validator}
        self._restart()
        return headers

    def rest(self, answer: Answer, *, final: bool = True) -> Iterator[bytes]:
        """The chunks that an answer brings after what is there already; the answer is used up.

        :param final: whether a refusal is the last word, and not of somebody on the way.
        :raises Again: it brings none, and may another time.
        :raises Never: it never will.
        """
        try:
            where = answer.header("Content-Range") or ""
            if answer.status == 206 and self.size and where.startswith(f"bytes {self.size}-"):
                pass
            elif answer.status == 200:
                self._restart()
                self._validator = _validator(answer)
            elif answer.status in {206, 416}:
                self._restart()
                raise Again("the server's ranges do not fit")
            else:
                said = f"the server answered {answer.status} {answer.reason}".strip()
                if answer.status in {408, 425, 429} or answer.status >= 500 or not final:
                    raise Again(said, answer.retry_after())
                raise Never(said)
            length = answer.header("Content-Length") or ""
            if length.isdecimal():
                self._expect(int(length))
            yield from answer.chunks()
        finally:
            answer.close()

    def _expect(self, more: int) -> None:
        if self.size + more > self._item.max_bytes:
            raise Unavailable(
                f"Input '{self._item.path}' from {shown(self._item.source)} is larger than its limit of "
                f"{self._item.max_bytes} bytes."
            )

    def _restart(self) -> None:
        self._budget.take(-self.size)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0
        self._validator = None


def _validator(answer: Answer) -> str | None:
    """What makes a resumed download safe: a strong ETag, or failing that the last change."""
    etag = answer.header("ETag")
    if etag is not None and etag.startswith('"'):
        return etag
    return answer.header("Last-Modified")
