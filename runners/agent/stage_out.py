"""Choose an attempt's results from its output tree, which is hostile.

Everything is opened beneath the output root, step by step, never through a link. Only regular
files with one name count: a hard link may be somebody else's file. What is passed over is noted
in words; depth, number of entries, names and total size are bounded.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from runners.agent.attempt_dir import open_regular, step_into
from uws_server.domain.runspec import AttemptLimits, Output

DEEPEST = 32  # directories
MOST_ENTRIES = 200_000
_LONGEST_PATH = 800  # bytes, so that the whole key stays below what object stores take
_LONGEST_ID = 120
_MOST_NOTES = 20
_CHUNK = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Names of every job's own results.
_RESERVED = frozenset({"stdout", "stderr", "manifest"})

# The registered type where there is one, else what the format's own documents say.
_MEDIA_TYPES = {
    "asdf": "application/x-asdf",
    "avro": "application/avro",
    "csv": "text/csv",
    "ecsv": "text/plain",
    "fits": "application/fits",
    "fit": "application/fits",
    "fts": "application/fits",
    "gif": "image/gif",
    "gz": "application/gzip",
    "h5": "application/x-hdf5",
    "hdf5": "application/x-hdf5",
    "htm": "text/html",
    "html": "text/html",
    "ipynb": "application/x-ipynb+json",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "log": "text/plain",
    "md": "text/markdown",
    "parquet": "application/vnd.apache.parquet",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
    "vot": "application/x-votable+xml",
    "votable": "application/x-votable+xml",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
}


class Changed(Exception):
    """A file is not what it was when it was chosen."""


@dataclass(frozen=True, slots=True)
class Result:
    """A file that becomes a result: ``path`` beneath the output root, ``size`` in bytes when it was seen."""

    id: str
    path: str
    size: int
    media_type: str


@dataclass(slots=True)
class Harvest:
    """What was found. ``notes`` tells what was passed over, ``faults`` what should have become a result."""

    results: list[Result] = field(default_factory=list)
    missing: list[Output] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int


def harvest(root: int, outputs: Sequence[Output], limits: AttemptLimits) -> Harvest:
    """Choose the results below the open directory ``root``: the first pattern that matches a file has it.

    Where limits cut off, earlier patterns come first, then the order of the paths.
    """
    found = Harvest()
    walk = _Walk(outputs, limits.output_files, found.notes)
    walk.directory(os.dup(root), "", 0)
    if walk.entries > MOST_ENTRIES:
        found.faults.append(f"The outputs have more than {MOST_ENTRIES} entries; the rest was not looked at")
    if len(found.notes) > _MOST_NOTES:
        found.notes[_MOST_NOTES:] = [f"and {len(found.notes) - _MOST_NOTES} more were passed over"]
    ids: set[str] = set(_RESERVED)
    files = room = 0
    for output, matches in zip(outputs, walk.matches, strict=True):
        if output.required and not matches:
            found.missing.append(output)
        for file in matches:
            if files >= limits.output_files or room + file.size > limits.output_bytes:
                continue
            files += 1
            room += file.size
            name = _id(output.id if len(matches) == 1 else f"{output.id}.{file.path}", ids)
            found.results.append(
                Result(name, file.path, file.size, output.media_type or media_type(file.path))
            )
    count = sum(len(matches) for matches in walk.matches)
    if count > limits.output_files:
        found.faults.append(f"The job made more than the {limits.output_files} output files it may have")
    elif count > files:
        found.faults.append(f"The job's outputs are larger than the {limits.output_bytes} bytes it may store")
    return found


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path fits: ``*``, ``?``, ``[…]`` within a segment, ``**`` for any number of them.

    As in a shell, a leading dot must stand in the pattern.
    """
    names = path.split("/")
    # ends[i]: the pattern so far can end before names[i]; one pass per segment, so no pattern is slow.
    ends = [True] + [False] * len(names)
    parts = pattern.split("/")
    if parts[-1] == "**":
        parts.append("*")
    for part in parts:
        if part == "**":
            for index, name in enumerate(names):
                ends[index + 1] = ends[index + 1] or (ends[index] and not name.startswith("."))
        else:
            ends = [False] + [
                ends[index] and _segment_matches(name, part) for index, name in enumerate(names)
            ]
    return ends[-1]


def media_type(path: str) -> str:
    """The media type that a file's extension tells, honestly: octets when it tells nothing."""
    name = path.rpartition("/")[2].lower()
    if name.endswith((".fits.gz", ".fits.fz")):
        return "application/gzip" if name.endswith(".gz") else "application/fits"
    return _MEDIA_TYPES.get(name.rpartition(".")[2] if "." in name else "", "application/octet-stream")


class Reading:
    """One chosen file, read from the start for each time it is sent, or part by part.

    ``sha256`` is of the bytes that were given out last.
    """

    def __init__(self, root: int, path: str) -> None:
        *above, name = path.split("/")
        directory = os.dup(root)
        for part in above:
            directory = step_into(directory, part)
        try:
            self._file = open_regular(directory, name)
        finally:
            os.close(directory)
        self._before = os.fstat(self._file)
        self.size = self._before.st_size
        self._hash = hashlib.sha256()
        self._hashed = 0

    @property
    def state(self) -> list[int]:
        """What changes when somebody writes to the file, or puts another one in its place."""
        return [self._before.st_ino, self._before.st_size, self._before.st_mtime_ns]

    def chunks(self) -> Iterator[bytes]:
        """Exactly ``size`` bytes, as they were together at one time.

        The last of them are held back until it is known that nobody has written meanwhile: what is stored
        cannot be taken back.

        :raises Changed: somebody has, or there are fewer by now.
        """
        self._hash, self._hashed = hashlib.sha256(), 0
        return self.part(0, self.size)

    def part(self, start: int, size: int) -> Iterator[bytes]:
        """So many bytes from ``start`` on; with the last ones of the file it is as with `chunks`.

        :raises Changed: see `chunks`.
        """
        at, end = start, start + size
        whole = self._hash.copy() if start == self._hashed else None
        while at < end:
            chunk = os.pread(self._file, min(_CHUNK, end - at), at)
            if not chunk:
                raise Changed("it became shorter while it was read")
            at += len(chunk)
            if whole is not None:
                whole.update(chunk)
            if at == self.size and self.touched():
                raise Changed("it is still being written to")
            if at == end and whole is not None:
                self._hash, self._hashed = whole, end
            yield chunk

    def hash_up_to(self, end: int) -> None:
        """Read on to ``end`` for the checksum alone, where that was stored before.

        :raises Changed: see `chunks`.
        """
        for _ in self.part(self._hashed, max(0, end - self._hashed)):
            pass

    def sha256(self) -> str:
        """Of what was sent."""
        return self._hash.hexdigest()

    def touched(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        now = os.fstat(self._file)
        return (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class _Walk:
    """Collects the files that match, per output, each list bounded."""

    def __init__(self, outputs: Sequence[Output], most: int, notes: list[str]) -> None:
        self._outputs = outputs
        self._most = most + 1  # one too many, to be seen
        self._notes = notes
        self.matches: list[list[_File]] = [[] for _ in outputs]
        self.entries = 0

    def directory(self, descriptor: int, prefix: str, depth: int) -> None:
        """Look at everything below; closes the descriptor."""
        try:
            for name, is_directory in self._names(descriptor):
                path = prefix + name
                reason = _unfit(name, path)
                if reason:
                    self._note(path, reason)
                elif not is_directory:
                    self._file(descriptor, name, path)
                elif depth >= DEEPEST:
                    self._note(path, f"it is nested deeper than {DEEPEST} directories")
                else:
                    self._below(lambda: os.open(name, _DIRECTORY, dir_fd=descriptor), path, depth)  # noqa: B023
        finally:
            os.close(descriptor)

    def _below(self, opened: Callable[[], int], path: str, depth: int) -> None:
        try:
            below = opened()
        except OSError as error:
            self._note(path, str(error.strerror))
            return
        self.directory(below, f"{path}/", depth + 1)

    def _names(self, descriptor: int) -> list[tuple[str, bool]]:
        names = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self.entries += 1
                if self.entries > MOST_ENTRIES:
                    break
                with suppress(OSError):
                    names.append((entry.name, entry.is_dir(follow_symlinks=False)))
        return sorted(names)

    def _file(self, directory: int, name: str, path: str) -> None:
        numbers = (number for number, output in enumerate(self._outputs) if matches(path, output.glob))
        number = next(numbers, None)
        if number is None or len(self.matches[number]) >= self._most:
            return
        try:
            file = open_regular(directory, name)
        except OSError as error:
            self._note(path, str(error.strerror))
            return
        self.matches[number].append(_File(path, os.fstat(file).st_size))
        os.close(file)

    def _note(self, path: str, reason: str) -> None:
        self._notes.append(f"{path[:200]!r} was passed over: {reason}")


def _segment_matches(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatchcase(name, part)


def _unfit(name: str, path: str) -> str:
    """Why a name cannot be part of a key; empty when it can."""
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "its name has a control character"
    if "\ufffe" in name or "\uffff" in name:  # object stores list their content as XML, which has neither
        return "its name has U+FFFE or U+FFFF, which are no characters"
    if length > _LONGEST_PATH:
        return f"its path is longer than {_LONGEST_PATH} bytes"
    return ""


def _id(wanted: str, taken: set[str]) -> str:
    """A result id made of ``[A-Za-z0-9._-]`` that no other result has."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted.replace("/", "."))[:_LONGEST_ID] or "_"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name)
    return name
