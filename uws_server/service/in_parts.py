"""Large results go to the object store in parts, and each step may be asked for again.

Nothing is noted of it here: what is there, the object store says. The id of an upload is what keeps the
parts of one content from those of another, as after a file was written anew.
"""

from __future__ import annotations

from collections.abc import Callable

from uws_server.domain.errors import Conflict, PartsMissing
from uws_server.domain.wire import MOST_LINKS, PartLink, Upload, WantedParts
from uws_server.storage.base import Exists, NotStored, ObjectStore, Part, StorageUnavailable, Uploads

_BATCH_BYTES = 1024**3  # links do not wait for more than this to be sent


class InParts:
    """The steps of an upload. ``seconds`` is how long a link lives behind which so many bytes are sent."""

    def __init__(self, objects: ObjectStore, uploads: Uploads, seconds: Callable[[int], int]) -> None:
        self._objects = objects
        self._uploads = uploads
        self._seconds = seconds

    def go_on(self, key: str, wanted: WantedParts) -> Upload:
        """Begin the upload or go on with it: links to the first of the parts that are missing.

        :raises Conflict: other content is stored under the key.
        """
        there = self._there(key, wanted.upload)
        upload = wanted.upload
        if there is None and self._stored(key, wanted):
            return Upload(upload, [])  # it is complete, and that was not heard
        ranges = self._ranges(wanted.size)
        lengths = {number: length for number, _, length in ranges}
        # Parts of another size were cut at other places: the size of a part was set anew since, and one
        # that has its length by chance holds other bytes.
        if there is None or any(lengths.get(number) != part.size for number, part in there.items()):
            upload, there = self._uploads.begin(key), {}
        batch: list[tuple[int, int, int]] = []
        size = 0
        for number, start, length in ranges:
            if number in there:
                continue
            if batch and (len(batch) == MOST_LINKS or size + length > _BATCH_BYTES):
                break
            batch.append((number, start, length))
            size += length
        seconds = self._seconds(size)
        return Upload(
            upload,
            [
                PartLink(number, start, length, self._uploads.sign(key, upload, number, seconds, length))
                for number, start, length in batch
            ],
        )

    def complete(self, key: str, wanted: WantedParts) -> None:
        """Make the object of its parts, once; said again, it is there already.

        :raises PartsMissing: not all parts are there, or none, as after the upload was ended by a rule.
        :raises Conflict: other content is under the key.
        :raises StorageUnavailable: also while the store is still at it, after a call that broke off.
        """
        there = self._there(key, wanted.upload)
        if there is not None:
            parts = [there[number] for number in sorted(there)]
            ranges = [(number, length) for number, _, length in self._ranges(wanted.size)]
            if [(part.number, part.size) for part in parts] != ranges:
                raise PartsMissing(f"not all parts of {wanted.name[:80]!r} are there")
            try:
                return self._uploads.complete(key, wanted.upload, parts)
            except (NotStored, Exists):
                pass  # by an earlier call
        if self._stored(key, wanted):
            return None
        if there is None:
            raise PartsMissing(f"the upload of {wanted.name[:80]!r} has ended")
        raise StorageUnavailable(f"{wanted.name[:80]!r} is not complete yet")

    def _there(self, key: str, upload: str) -> dict[int, Part] | None:
        """The parts that are there, by number; None: there is no such upload."""
        if not upload:
            return None
        try:
            return {part.number: part for part in self._uploads.parts(key, upload)}
        except NotStored:
            return None

    def _stored(self, key: str, wanted: WantedParts) -> bool:
        """Whether the object is there.

        :raises Conflict: another one is, or one that nobody says was begun as this upload.
        """
        try:
            size = self._objects.head(key).size
        except NotStored:
            return False
        if size != wanted.size or not wanted.upload:
            raise Conflict(f"other content is stored as {wanted.name[:80]!r} already, and stays")
        return True

    def _ranges(self, size: int) -> list[tuple[int, int, int]]:
        """Number, start and length of every part."""
        part = self._uploads.part_bytes(size)
        return [
            (number, start, min(part, size - start)) for number, start in enumerate(range(0, size, part), 1)
        ]
