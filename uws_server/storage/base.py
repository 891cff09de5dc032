"""What every object store offers, whatever its URL scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


class ObjectStore(Protocol):
    """A flat store of immutable objects under keys such as ``jobs/{id}/1/results/table.ecsv``.

    Keys are relative paths of UTF-8 segments, none of them empty, ``.`` or ``..``; anything else is
    refused with ValueError before the store is asked (`uws_server.storage.keys`). No key may be the
    beginning, by whole segments, of another one; a store that keeps objects in files refuses that with
    ValueError, one that does not see it keeps both. Every call may raise `StorageUnavailable`.
    """

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
        """Remove the object ``prefix`` and every object below it. Nothing there is no error."""

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
