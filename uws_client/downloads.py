"""Results to files: under names that cannot lead out of the directory, whole or not at all."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from uws_client.connection import Connection, read_whole
from uws_client.documents import Result
from uws_client.errors import Damaged, Refused, Unreachable
from uws_client.printing import printable

_TRIES = 5
"""How often a download that broke off is taken up again without a byte of progress."""

_EXTENSIONS = {
    "application/fits": ".fits",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/x-ipynb+json": ".ipynb",
    "application/x-votable+xml": ".vot",
    "image/fits": ".fits",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
    "text/xml": ".xml",
    "application/xml": ".xml",
}

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")

Received = Callable[[int, int | None], None]
"""Told how many bytes of how many are there."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A result that is a file now. ``checked``: the server gave a checksum and the file has it."""

    id: str
    path: Path
    size: int
    sha256: str
    checked: bool


def safe_parts(name: str) -> tuple[str, ...]:
    """The segments of a relative path for a name that anybody may have chosen.

    Only segments that can be a plain file name stay: no ``..``, nothing hidden, no separators of any
    system, no control characters, nothing that looks like an option, at most 120 characters each.
    """
    parts = []
    for segment in name.split("/"):
        clean = re.sub(r'[\\:*?"<>|\s]', "_", "".join(c if c.isprintable() else "_" for c in segment))
        clean = clean.lstrip(".-").rstrip(".")
        while len(clean.encode()) > 120:
            stem, dot, extension = clean.rpartition(".")
            clean = f"{stem[:-1]}{dot}{extension}" if stem and len(extension) < 20 else clean[:-1]
        if clean:
            parts.append(clean)
    return tuple(parts[-8:]) or ("result",)


class Downloads:
    """Fetches results into one directory."""

    def __init__(self, connection: Connection, directory: Path, *, overwrite: bool = False) -> None:
        self._connection = connection
        self._directory = directory
        self._overwrite = overwrite
        self._taken: set[str] = set()

    def fetch(self, result: Result, received: Received | None = None) -> Downloaded:
        """One result, taken up again where it broke off.

        A file is only ever seen whole: it grows as ``NAME.part``, which a later call goes on with when
        the checksum is known. A file that is there and is this very result is left as it is.

        :raises Damaged: size or checksum are not what the server says, or another file is in the way.
        """
        path = self._place(result)
        part = path.with_name(path.name + ".part")
        present = ""
        if path.exists() and not self._overwrite:
            present = _sha256(path) if path.is_file() else "none"
            if result.sha256 and present == result.sha256:
                return Downloaded(result.id, path, path.stat().st_size, present, checked=True)
            if result.sha256 or present == "none":
                raise Damaged(f"{path} is there already and is not this result; --overwrite replaces it")
        if part.is_symlink() or result.sha256 is None:
            part.unlink(missing_ok=True)
        resumed = part.exists()
        headers = self._receive(result, part, received)
        expected = result.sha256 or _told(headers)
        found = _sha256(part)
        if resumed and found != expected:
            part.unlink()  # what was there before was not of this result
            headers = self._receive(result, part, received)
            found = _sha256(part)
        if expected and found != expected:
            part.unlink()
            raise Damaged(
                f"result {printable(result.id)!r} has the SHA-256 {found} and the server says {expected}, "
                "so it was not kept"
            )
        if present and present != found:
            part.unlink()
            raise Damaged(f"{path} is there already and is not this result; --overwrite replaces it")
        part.replace(path)
        return Downloaded(result.id, path, path.stat().st_size, found, checked=bool(expected))

    def _place(self, result: Result) -> Path:
        parts = safe_parts(result.id)
        name = parts[-1]
        if not Path(name).suffix:
            name += self._suffix(result)
        stem, suffix, number = Path(name).stem, Path(name).suffix, 1
        while "/".join((*parts[:-1], name)).casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._taken.add("/".join((*parts[:-1], name)).casefold())
        path = self._directory.joinpath(*parts[:-1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self._directory.resolve()):
            raise Damaged(f"{path.parent} leads out of {self._directory}, so nothing is written there")
        return path

    def _suffix(self, result: Result) -> str:
        """An extension for an id that has none: of the link, of the file's name, of the media type."""
        suffix = Path(unquote(urlsplit(result.url).path)).suffix
        if not _SUFFIX.fullmatch(suffix):
            suffix = Path(_file_name(self._connection.head(result.url))).suffix
        if _SUFFIX.fullmatch(suffix):
            return suffix
        return _EXTENSIONS.get((result.media_type or "").partition(";")[0].strip().lower(), "")

    def _receive(self, result: Result, part: Path, received: Received | None) -> httpx.Headers:
        """Let ``part`` grow until it is whole; the headers that came with its last piece."""
        tag = ""
        failures = 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            try:
                return self._once(result, part, have, tag, received)
            except _Again as again:
                now = part.stat().st_size if part.exists() else 0
                failures = 0 if now > have else failures + 1
                tag = again.tag or tag
                if failures >= _TRIES:
                    raise Unreachable(str(again)) from again
                if not tag and result.sha256 is None:
                    part.unlink(missing_ok=True)  # nothing says that the rest would belong to this
                    failures += 1
                self._connection.sleep(again.after or 0.5 * 2**failures)

    def _once(
        self, result: Result, part: Path, have: int, tag: str, received: Received | None
    ) -> httpx.Headers:
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and tag:
            headers["If-Range"] = tag
        seen = ""
        try:
            with self._connection.stream(result.url, headers) as response:
                seen = response.headers.get("ETag", "")
                seen = "" if seen.startswith("W/") else seen
                if response.status_code == 416 and have:
                    return httpx.Headers()  # there is no more than we have
                _refuse(response, have)
                total = _total(response)
                start = have if response.status_code == 206 else 0
                with part.open("ab" if start else "wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        start += len(chunk)
                        if received is not None:
                            received(start, total)
                if total is not None and start < total:
                    raise _Again(f"{result.url} ended after {start} of {total} bytes", seen)
                return response.headers
        except Unreachable as lost:
            raise _Again(str(lost), seen) from lost


class _Again(Exception):
    """A download broke off; it may be taken up again, after ``after`` seconds if the server says so."""

    def __init__(self, message: str, tag: str = "", after: float = 0.0) -> None:
        super().__init__(message)
        self.tag = tag
        self.after = after


def _refuse(response: httpx.Response, have: int) -> None:
    """Raise what a status other than that of bytes means."""
    status = response.status_code
    if status in {429, 502, 503, 504}:
        text = response.headers.get("Retry-After", "")
        raise _Again(
            f"{response.url} answered {status}", after=min(float(text), 60.0) if text.isdecimal() else 0.0
        )
    if status not in {200, 206}:
        answer = read_whole(response)
        raise Refused(f"{answer.url} answered {answer.says}", status)
    if status == 206:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if start is None or int(start[1]) != have:
            raise Damaged(f"{response.url} answered with another part than the one that was asked for")


def _total(response: httpx.Response) -> int | None:
    """The size of the whole result, where the answer tells it."""
    if response.status_code == 206:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        coded = response.headers.get("Content-Encoding", "identity") != "identity"
        text = "" if coded else response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _told(headers: httpx.Headers) -> str | None:
    """The SHA-256 in an answer's ``Repr-Digest`` or ``Digest``, in hexadecimal digits."""
    words = f"{headers.get('Repr-Digest', '')},{headers.get('Digest', '')}"
    match = re.search(r"sha-256=:?([A-Za-z0-9+/]{43}=)", words, re.IGNORECASE)
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True).hex()
    except binascii.Error:
        return None


def _file_name(headers: httpx.Headers) -> str:
    """The name in ``Content-Disposition``, for its extension only."""
    said = Message()
    said["Content-Disposition"] = headers.get("Content-Disposition", "")
    return said.get_filename("")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wanted(results: Collection[Result], ids: Collection[str]) -> tuple[Result, ...]:
    """The results with these ids; all of them when none is named.

    :raises Refused: the job has no result of that id.
    """
    if not ids:
        return tuple(results)
    known = {result.id: result for result in results}
    for one in ids:
        if one not in known:
            has = ", ".join(printable(name) for name in known) or "none yet"
            raise Refused(f"the job has no result {one!r}; it has: {has}", 404)
    return tuple(known[one] for one in dict.fromkeys(ids))
