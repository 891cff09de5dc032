"""An object store whose calls are counted and timed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from uws_server.metrics import OBJECT_CALL, timed
from uws_server.storage.base import (
    Exists,
    NotStored,
    ObjectStore,
    Part,
    StorageUnavailable,
    Stored,
    TooLong,
    Uploads,
)

_OUTCOMES: dict[type[Exception], str] = {
    NotStored: "absent",
    Exists: "exists",
    TooLong: "too_long",
    StorageUnavailable: "unavailable",
}


def _counted(operation: str) -> AbstractContextManager[None]:
    return timed(OBJECT_CALL, _OUTCOMES, operation)


class CountedObjects:
    """See `ObjectStore`. Of a read and of a list counts the time until the first of it is there."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.uploads = None if objects.uploads is None else CountedUploads(objects.uploads)

    def put(
        self, key: str, content: bytes | Iterable[bytes], limit: int | None = None, *, create: bool = False
    ) -> Stored:
        """See `ObjectStore.put`."""
        with _counted("put"):
            return self._objects.put(key, content, limit, create=create)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        with _counted("read"):
            return self._objects.read(key, start, end)

    def head(self, key: str) -> Stored:
        """See `ObjectStore.head`."""
        with _counted("head"):
            return self._objects.head(key)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `ObjectStore.list`."""
        stored = self._objects.list(prefix)
        with _counted("list"):
            first = next(stored, None)
        if first is not None:
            yield first
            yield from stored

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`."""
        with _counted("delete"):
            self._objects.delete(prefix)

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
        """See `ObjectStore.sign`, which calls nobody."""
        return self._objects.sign(method, key, seconds, limit, public=public, media_type=media_type)


class CountedUploads:
    """See `Uploads`."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def part_bytes(self, size: int) -> int:
        """See `Uploads.part_bytes`, which calls nobody."""
        return self._uploads.part_bytes(size)

    def begin(self, key: str) -> str:
        """See `Uploads.begin`."""
        with _counted("begin_parts"):
            return self._uploads.begin(key)

    def parts(self, key: str, upload: str) -> list[Part]:
        """See `Uploads.parts`."""
        with _counted("list_parts"):
            return self._uploads.parts(key, upload)

    def sign(self, key: str, upload: str, number: int, seconds: int, size: int) -> str:
        """See `Uploads.sign`, which calls nobody."""
        return self._uploads.sign(key, upload, number, seconds, size)

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """See `Uploads.complete`."""
        with _counted("complete_parts"):
            self._uploads.complete(key, upload, parts)
