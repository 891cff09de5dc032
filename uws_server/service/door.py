"""The agent's door: what the program beside the user's code may ask of the server.

An agent holds one token of its attempt. The token is an HMAC of job and attempt under the server's
secret: nothing is stored for it, and a worker that takes up a lapsed claim makes the same one, so that
the agent that is running already stays valid. What fences an attempt off is the job's record.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from uws_server.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from uws_server.domain.events import Started
from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.domain.runspec import AttemptLimits, RunSpec
from uws_server.domain.wire import MOST_LINKS, Link, Upload, Wanted, WantedParts
from uws_server.service.changes import Changes
from uws_server.service.in_parts import InParts
from uws_server.service.manifest import MANIFEST, RESULT_NAME, read_manifest
from uws_server.service.uploads import parameter_key
from uws_server.storage.base import Exists, NotStored, ObjectStore, TooLong
from uws_server.store.base import JobStore, Planned, Quota

_NAME = re.compile(rf"(?:logs/(?:stdout|stderr)/[0-9]{{15}}|{RESULT_NAME})")
_LINK_SECONDS = 60
LONGEST_LINK = 3600
"""Seconds after which no link is good any more, so that a deleted job's prefix can be cleared for good."""

_MARK = 4096  # bytes of a log beyond its limit: the words that say what was left out
_SLOWEST = 256 * 1024  # bytes a second: a link lives as long as its bytes may take at this rate


def agent_token(secret: bytes, job_id: str, attempt: int) -> str:
    """The token of one attempt."""
    digest = hmac.new(secret, f"attempt:{job_id}:{attempt}".encode(), hashlib.sha256).hexdigest()
    return f"{job_id}.{attempt}.{digest}"


class Door:
    """What agents ask. Each call costs one read of the job; `links` and `progress` one script call besides.

    ``most_bytes`` is what one result may have. ``limits`` gives a job's own limits: a job that has got
    hold of its agent's token can store no more than its agent would have.
    """

    def __init__(
        self,
        store: JobStore,
        changes: Changes,
        objects: ObjectStore,
        secret: bytes,
        most_bytes: int,
        *,
        spec: Callable[[Job], RunSpec],
        limits: Callable[[Job], AttemptLimits] = lambda _: AttemptLimits(),
    ) -> None:
        self._store = store
        self._changes = changes
        self._spec = spec
        self._objects = objects
        self._secret = secret
        self._most_bytes = most_bytes
        self._limits = limits

    def verify(self, token: str) -> tuple[str, int]:
        """Job and attempt that a token of ours is for; whether they still count is not looked at.

        :raises Unauthenticated: it is none.
        """
        job_id, _, rest = token.partition(".")
        number, _, _ = rest.partition(".")
        if not number.isascii() or not number.isdigit() or len(number) > 6:
            raise Unauthenticated("this is no token of an attempt")
        attempt = int(number)
        if not hmac.compare_digest(token.encode(), agent_token(self._secret, job_id, attempt).encode()):
            raise Unauthenticated("this is no token of an attempt")
        return job_id, attempt

    def _attempt(self, token: str) -> tuple[Job, int]:
        job_id, attempt = self.verify(token)
        job = self._store.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        if job.attempt != attempt or job.workload is Workload.NONE:
            raise Forbidden(f"attempt {attempt} of job {job_id} has no business here any more")
        return job, attempt

    def begin(self, token: str, place: str) -> RunSpec:
        """The run spec of the attempt, for the first place that asks to begin it, and for no other ever.

        :raises Forbidden: it has begun elsewhere, or is not to begin.
        """
        job, attempt = self._attempt(token)
        spec = self._spec(job)
        if not self._store.begin(job.id, attempt, place):
            raise Forbidden(f"attempt {attempt} of job {job.id} is not to begin here")
        return spec

    def started(self, token: str, at: Instant) -> None:
        """Note that the user's code has started, by the clock of the agent's machine."""
        job, attempt = self._attempt(token)
        now = self._store.now()  # a wrong clock must not make a job that ended before it started
        self._changes.apply(job.id, Started(attempt, min(max(at, job.queued or job.created), now)))

    def links(self, token: str, wanted: Sequence[Wanted]) -> list[Link]:
        """Signed links below the attempt's own prefix, or to the job's uploads.

        :raises TooLarge: one object is larger than the server takes, or all are more than the job may store.
        """
        job, attempt = self._attempt(token)
        if len(wanted) > MOST_LINKS:
            raise BadRequest(f"{len(wanted)} links are more than the {MOST_LINKS} given at once")
        links = [self._link(job, attempt, one) for one in wanted]
        puts = [one for one in wanted if one.method == "PUT"]
        if puts:
            self._count(job, attempt, puts)
        return links

    def parts(self, token: str, wanted: WantedParts) -> Upload:
        """Begin to store a large object in parts, or go on with it.

        :raises TooLarge: it is larger than the server takes, or than the job may still store.
        :raises Conflict: other content is stored under its name.
        """
        key = self._large(token, wanted)
        with _fit(wanted.name):
            return self._steps(wanted).go_on(key, wanted)

    def complete(self, token: str, wanted: WantedParts) -> None:
        """Put the parts of a large object together; it may have been done before.

        :raises PartsMissing: not all are there.
        :raises Conflict: other content is stored under its name.
        """
        key = self._large(token, wanted)
        with _fit(wanted.name):
            self._steps(wanted).complete(key, wanted)

    def _large(self, token: str, wanted: WantedParts) -> str:
        """The key of what an attempt may store in parts."""
        job, attempt = self._attempt(token)
        one = Wanted("PUT", wanted.name, wanted.size)
        key = self._key(job, attempt, one)
        self._count(job, attempt, [one])
        return key

    def _steps(self, wanted: WantedParts) -> InParts:
        uploads = self._objects.uploads
        if uploads is None or wanted.size <= uploads.part_bytes(wanted.size):
            raise BadRequest(f"{wanted.name[:80]!r} is not to be stored in parts")
        return InParts(self._objects, uploads, _link_seconds)

    def _count(self, job: Job, attempt: int, puts: Sequence[Wanted]) -> None:
        limits = self._limits(job)
        quota = Quota(limits.output_bytes, limits.output_files, limits.log_bytes + _MARK)
        over = self._store.count(job.id, attempt, [_planned(one) for one in puts], quota)
        if over is None:
            return
        one = puts[over]
        if one.name.startswith("logs/"):
            raise TooLarge(
                f"{one.name[:80]!r} of {one.size} bytes does not continue that log within its "
                f"{limits.log_bytes} bytes"
            )
        raise TooLarge(
            f"with {one.name[:80]!r} of {one.size} bytes the job would store more than its "
            f"{limits.output_files} results of {limits.output_bytes} bytes together"
        )

    def _link(self, job: Job, attempt: int, wanted: Wanted) -> Link:
        if wanted.method == "GET":
            kind, _, name = wanted.name.partition("/")
            found = next((p for p in job.parameters if p.name == name and p.upload), None)
            if kind != "parameters" or found is None:
                raise BadRequest(f"the job has no upload {wanted.name[:80]!r}")
            return Link(self._objects.sign("GET", parameter_key(job.id, found), LONGEST_LINK))
        key = self._key(job, attempt, wanted)
        with _fit(wanted.name):
            uploads = self._objects.uploads
            if wanted.parts and uploads is not None and wanted.size > uploads.part_bytes(wanted.size):
                return Link("", parts=True)
            return Link(self._objects.sign("PUT", key, _link_seconds(wanted.size), wanted.size))

    def _key(self, job: Job, attempt: int, wanted: Wanted) -> str:
        """Where the attempt may store this."""
        if _NAME.fullmatch(wanted.name) is None:
            raise BadRequest(f"{wanted.name[:80]!r} is no name for what an attempt may store")
        if wanted.size < 0:
            raise BadRequest(f"{wanted.size} is no number of bytes")
        if wanted.size > self._most_bytes:
            raise TooLarge(f"{wanted.name[:80]!r} of {wanted.size} bytes is more than {self._most_bytes}")
        return f"{job.prefix}/{attempt}/{wanted.name}"

    def progress(self, token: str, done: int, of: int) -> None:
        """Note how far the attempt is."""
        job, attempt = self._attempt(token)
        if not 0 <= done <= of <= 10**9:
            raise BadRequest(f"{done} of {of} is no progress")
        if not job.phase.final:
            self._store.report(job.id, attempt, done, of)

    def hand_in(self, token: str, manifest: Mapping[str, Any]) -> None:
        """Store the manifest, once. Every result it lists must be in the object store.

        :raises Conflict: another manifest of this attempt is there already.
        """
        job, attempt = self._attempt(token)
        prefix = f"{job.prefix}/{attempt}"
        if (manifest.get("job"), manifest.get("attempt")) != (job.id, attempt):
            raise BadRequest("the manifest is of another attempt")
        results, _ = read_manifest(manifest)
        most = self._limits(job).output_files
        if len(results) > most:
            raise TooLarge(f"{len(results)} results are more than the {most} that the job may have")
        try:
            text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        except RecursionError:  # a little less deep than what can be read
            raise BadRequest("the manifest is nested too deeply") from None
        key = f"{prefix}/{MANIFEST}"
        with suppress(NotStored):
            return self._must_be(text, key)
        # One call for each thousand: to ask for each result takes a distant store minutes.
        listed = self._objects.list(f"{prefix}/results") if results else ()
        sizes = {found.key: found.size for found in listed}
        for result in results:
            stored = f"{prefix}/{result.name}"
            try:  # a list may leave out, or spell otherwise, what has an odd name
                size = sizes[stored] if stored in sizes else self._objects.head(stored).size
            except (NotStored, ValueError):  # or cannot have been, under such a name
                raise BadRequest(f"result {result.id!r} is in the manifest but was not stored") from None
            if size != result.size:
                raise BadRequest(f"result {result.id!r} has {size} bytes stored, not {result.size}")
        try:
            self._objects.put(key, text, create=True)
        except Exists:
            self._must_be(text, key)

    def _must_be(self, text: bytes, key: str) -> None:
        if b"".join(self._objects.read(key)) != text:
            raise Conflict("another manifest of this attempt was handed in before")


def _link_seconds(size: int) -> int:
    """How long a link may take to be used for so many bytes."""
    return min(_LINK_SECONDS + size // _SLOWEST, LONGEST_LINK)


@contextmanager
def _fit(name: str) -> Iterator[None]:
    """What the object store says of a key and a size, in the door's words."""
    try:
        yield
    except TooLong as error:
        raise TooLarge(f"{name[:80]!r}: {error}") from None
    except ValueError as error:
        raise BadRequest(f"{name[:80]!r} is no name for what an attempt may store: {error}") from None


def _planned(wanted: Wanted) -> Planned:
    if wanted.name.startswith("logs/"):
        name, _, offset = wanted.name.rpartition("/")
        return Planned(name, wanted.size, int(offset))
    return Planned(wanted.name, wanted.size)
