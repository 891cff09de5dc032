"""The object store in memory: the double for tests, with the same contract as the real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Literal

from uws_server.storage.base import Exists, NotStored, Stored, TooLong
from uws_server.storage.keys import segments
from uws_server.storage.links import Links, now

CHUNK = 256 * 1024


class MemoryStore:
    """An object store that forgets everything with its process."""

    uploads = None

    def __init__(self, links: Links) -> None:
        self._links = links
        self._objects: dict[str, tuple[Stored, bytes]] = {}

    def put(
        self, key: str, content: bytes | Iterable[bytes], limit: int | None = None, *, create: bool = False
    ) -> Stored:
        """See `ObjectStore.put`."""
        beginnings = accumulate(segments(key), lambda path, part: f"{path}/{part}")
        whole = bytearray()
        for chunk in (content,) if isinstance(content, bytes) else content:
            whole += chunk
            if limit is not None and len(whole) > limit:
                raise TooLong(f"the content of {key} is longer than {limit} bytes")
        if any(path in self._objects for path in beginnings if path != key) or any(self.list(key)):
            raise ValueError(f"the key {key} is the beginning of another key, or another key of it")
        if create and key in self._objects:
            raise Exists(key)
        stored = Stored(key, len(whole), now(), hashlib.sha256(whole).hexdigest()[:32])
        self._objects[key] = stored, bytes(whole)
        return stored

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        _, content = self._find(key)
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"no range of bytes: {start} to {end}")
        part = content[start:end]
        return (part[at : at + CHUNK] for at in range(0, len(part), CHUNK))

    def head(self, key: str) -> Stored:
        """See `ObjectStore.head`."""
        return self._find(key)[0]

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `ObjectStore.list`."""
        below = "/".join(segments(prefix)) + "/" if prefix else ""
        keys = sorted((key for key in list(self._objects) if key.startswith(below)), key=str.encode)
        return iter([self._objects[key][0] for key in keys])

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`."""
        below = "/".join(segments(prefix)) + "/"
        for key in [key for key in list(self._objects) if key == prefix or key.startswith(below)]:
            self._objects.pop(key, None)

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
        """See `ObjectStore.sign`; our own route is the same for all."""
        segments(key)
        return self._links.sign(method, key, seconds, limit)

    def _find(self, key: str) -> tuple[Stored, bytes]:
        segments(key)
        try:
            return self._objects[key]
        except KeyError:
            raise NotStored(key) from None
