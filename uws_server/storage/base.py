"""What every object store offers, whatever its URL scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Aside = Callable[[Callable[[], None]], None]
"""How a step that waits for the disk is run: a server of greenlets lets the others go on meanwhile."""


def directly(step: Callable[[], None]) -> None:
    """The plain `Aside`: run it where we stand."""
    step()


class NotStored(Exception):
    """There is no object under this key."""


class StorageUnavailable(Exception):
    """The object store did not answer; trying again later may work."""


class Exists(Exception):
    """There is an object under this key already, which stays as it is."""


class TooLong(ValueError):
    """The content is longer than its limit; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of one object.

    ``size`` in bytes, ``modified`` in ms since 1970 UTC. ``etag`` stands here without quotes; it
    stays the same as long as the object does.
    """

    key: str
    size: int
    modified: int
    etag: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an unfinished upload as the store has it: ``number`` from 1, ``size`` in bytes."""

    number: int
    size: int
    etag: str


class Uploads(Protocol):
    """Objects that are stored part by part, by links, and are there when all of it was put together.

    Parts can come in any order, at once and again; the last one that came under a number counts. Every part
    but the last has the same size. Keys as in `ObjectStore`; every call but `part_bytes` and `sign` may raise
    `StorageUnavailable`.
    """

    def part_bytes(self, size: int) -> int:
        """Bytes of a part of an object of ``size``. What is not longer than one part goes by a single PUT.

        :raises TooLong: no parts hold so much.
        """

    def begin(self, key: str) -> str:
        """Begin an upload: its id. Any other unfinished one of the same key ends, so that none is left."""

    def parts(self, key: str, upload: str) -> list[Part]:
        """The parts that are there, by number.

        :raises NotStored: there is no such unfinished upload. Some stores show a finished one still.
        """

    def sign(self, key: str, upload: str, number: int, seconds: int, size: int) -> str:
        """A URL that permits to PUT one part of exactly ``size`` bytes for ``seconds``."""

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Make the object of these parts, in place of nothing. This may take the store minutes.

        Said again it makes nothing; some stores then raise what is said here, others do not.

        :raises NotStored: there is no such unfinished upload.
        :raises Exists: something is under the key, perhaps what an earlier call made.
        """


class ObjectStore(Protocol):
    """A flat store of immutable objects under keys such as ``jobs/{id}/1/results/table.ecsv``.

    Keys are relative paths of UTF-8 segments, none of them empty, ``.`` or ``..``; anything else is
    refused with ValueError before the store is asked (`uws_server.storage.keys`). No key may be the
    beginning, by whole segments, of another one; a store that keeps objects in files refuses that with
    ValueError, one that does not see it keeps both. Every call may raise `StorageUnavailable`.
    """

    @property
    def uploads(self) -> Uploads | None:
        """How large objects are stored part by part, where the store has that."""

    def put(
        self, key: str, content: bytes | Iterable[bytes], limit: int | None = None, *, create: bool = False
    ) -> Stored:
        """Store the object, all or nothing, durably, in place of what was there under the same key.

        With ``create`` nothing is replaced: of several that store one key at the same instant, one does.
        A store that has no such write looks first, and there the last of them wins.

        ``modified`` in what is returned may be by our own clock. Memory is bounded. When the iterable
        raises, nothing is stored and the exception goes on to the caller.

        :raises TooLong: the content is longer than ``limit`` bytes; nothing is stored.
        :raises Exists: with ``create``, something is there.
        """

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to, not including, ``end``, in chunks of bounded size.

        A range beyond the end of the object gives what there is of it.

        :raises NotStored: at the call, before the first chunk is asked for.
        """

    def head(self, key: str) -> Stored:
        """What is known of the object.

        :raises NotStored: there is none.
        """

    def list(self, prefix: str) -> Iterator[Stored]:
        """Every object below ``prefix`` (whole segments; ``""`` is all), ordered by the key's UTF-8."""

    def delete(self, prefix: str) -> None:
        """Remove the object ``prefix``, every object below it, and unfinished uploads of any of these keys.

        Nothing there is no error.
        """

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
        """A URL that permits ``method`` on this one key for ``seconds``, to whoever holds it.

        Where the store can enforce it, ``limit`` caps the length of what is PUT, in bytes, and a PUT
        replaces nothing: a link lives longer than the word of who bought it. ``public`` asks for a link
        to where clients see the store; ``media_type`` is what the answer to a GET is to say it is, whatever
        was said when it was PUT, where the store can be told.

        :raises TooLong: no object of ``limit`` bytes can be PUT at once.
        """
