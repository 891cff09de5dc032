"""What a job has to show: its results, its logs while they grow and for ever after, its manifest.

Logs lie in the object store as segments, each named by the offset of its first byte. An agent that
was killed and runs again may cut them elsewhere, so segments may overlap; together they are one text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from uws_server.domain.errors import NotFound
from uws_server.domain.job import Job
from uws_server.domain.phase import Phase
from uws_server.service.manifest import MANIFEST
from uws_server.storage.base import NotStored, ObjectStore, Stored

LOGS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a results list. ``size`` in bytes, None while it grows."""

    id: str
    media_type: str
    size: int | None = None
    sha256: str = ""


class Readable(Protocol):
    """The part of an object store that is needed to read."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""


@dataclass(frozen=True, slots=True)
class Found:
    """One result, to be read: ``source.read(stored.key, …)``."""

    stored: Stored
    source: Readable
    media_type: str
    name: str  # fit for a file name
    redirectable: bool = False  # it is one object, which a signed link could lead to


def listed(job: Job) -> tuple[Listed, ...]:
    """What a results list shows (UWS-22): the logs from the start on, results once the manifest is in."""
    if job.phase is Phase.ARCHIVED or (job.started is None and job.logs is None and not job.results):
        return ()
    ids = {result.id for result in job.results}
    sizes: tuple[int | None, int | None] = job.logs or (None, None)
    own = [
        Listed(log, "text/plain; charset=utf-8", size)
        for log, size in zip(LOGS, sizes, strict=True)
        if log not in ids
    ]
    if job.logs is not None and "manifest" not in ids:
        own.append(Listed("manifest", "application/json"))
    results = (Listed(result.id, result.media_type, result.size, result.sha256) for result in job.results)
    return (*results, *own)


class Results:
    """Finds what a result id of a job stands for. The caller has checked that the job may be seen."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def find(self, job: Job, result_id: str) -> Found:
        """One result, log or the manifest.

        A result costs nothing to find, as the job's record has all about it; a log costs one listing.

        :raises NotFound: the job has no such result.
        """
        for result in job.results:
            if result.id == result_id:
                stored = Stored(
                    f"{job.attempt_prefix}/{result.name}",
                    result.size,
                    job.ended or job.created,
                    result.sha256,
                )
                name = result.name.rpartition("/")[2]
                return Found(stored, self._objects, result.media_type, name, redirectable=True)
        if any(one.id == result_id for one in listed(job)):
            if result_id in LOGS:
                return self._log(job, result_id)
            return self._manifest(job)
        # Some clients read a result first and never ask why there is none.
        why = f": {job.error.message}" if job.error else ""
        raise NotFound(f"job {job.id} has no result {result_id[:80]!r}{why}")

    def _log(self, job: Job, log: str) -> Found:
        prefix = f"{job.attempt_prefix}/logs/{log}"
        # Once it is final it stays what the manifest says, whatever a link that lives on may bring.
        most = job.logs[LOGS.index(log)] if job.logs else None
        segments = Segments(self._objects, list(self._objects.list(prefix)), most)
        modified = max((segment.modified for segment in segments.stored), default=job.started or job.created)
        etag = f"{job.attempt}-{segments.size}"
        stored = Stored(prefix, segments.size, modified, etag)
        return Found(stored, segments, "text/plain; charset=utf-8", f"{job.id}.{log}.txt")

    def _manifest(self, job: Job) -> Found:
        key = f"{job.attempt_prefix}/{MANIFEST}"
        try:
            stored = self._objects.head(key)
        except NotStored:
            raise NotFound(f"job {job.id} has no manifest") from None
        return Found(stored, self._objects, "application/json", f"{job.id}.manifest.json")


class Segments:
    """Segments read as the one text that they are, up to the first gap between them or ``most`` bytes."""

    def __init__(self, objects: ObjectStore, stored: list[Stored], most: int | None = None) -> None:
        self._objects = objects
        self.stored: list[Stored] = []
        self._starts: list[int] = []
        self.size = 0
        for segment in sorted(stored, key=_offset):
            start = _offset(segment)
            if start > self.size:
                break  # what lies between is still on its way
            if start + segment.size > self.size:
                self.stored.append(segment)
                self._starts.append(self.size)  # where what is new in it begins
                self.size = start + segment.size
        if most is not None:
            self.size = min(self.size, most)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``end`` of the whole. ``key`` is not needed."""
        stop = self.size if end is None else min(end, self.size)
        for segment, (first, last) in zip(self.stored, pairwise([*self._starts, self.size]), strict=True):
            low, high = max(start, first), min(stop, last)
            if low < high:
                offset = _offset(segment)
                yield from self._objects.read(segment.key, low - offset, high - offset)


def _offset(segment: Stored) -> int:
    name = segment.key.rpartition("/")[2]
    return int(name) if name.isascii() and name.isdigit() else 0
