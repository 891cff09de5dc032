"""Objects of an S3 store that are stored part by part, with requests that we sign and send ourselves.

obstore keeps an upload in parts to itself from begin to end, in one process. Here the parts come from
somebody else, by links, and whoever asks for the next step may be another process each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from lxml import etree

from uws_server.storage.base import NotStored, Part, StorageUnavailable, TooLong
from uws_server.storage.s3_bucket import PART_BYTES, Bucket
from uws_server.storage.s3_requests import UNREADABLE, NotOffered, ask, url_of
from uws_server.storage.sigv4 import Key, presigned

_MOST_PART_BYTES = 5 * 1024**3

_MOST_PARTS = 10_000
_MIB = 1024**2
_PUTTING_TOGETHER = 600.0  # s; a store that keeps objects in files copies all the parts


class S3Uploads:
    """See `Uploads`. ``part_bytes`` is what a part has where 10,000 of them are enough."""

    def __init__(self, bucket: Bucket, key: Key, part_bytes: int = PART_BYTES) -> None:
        self._bucket = bucket
        self._key = key
        self._part_bytes = part_bytes

    def part_bytes(self, size: int) -> int:
        """See `Uploads.part_bytes`."""
        least = -(-size // _MOST_PARTS)
        part = max(self._part_bytes, -(-least // _MIB) * _MIB)
        if part > _MOST_PART_BYTES:
            raise TooLong(f"{size} bytes are more than S3 takes, which is {_MOST_PARTS * _MOST_PART_BYTES}")
        return part

    def begin(self, key: str) -> str:
        """See `Uploads.begin`."""
        path = self._bucket.path(key)
        answer = self._ask("POST", path, {"uploads": ""}, root="InitiateMultipartUploadResult")
        upload = _text(answer, "UploadId")
        if not upload:
            raise self._unreadable()
        # Also what an earlier call began whose answer was lost, this one's own first try included.
        for other, unfinished in self._unfinished(path):
            if other == path and unfinished != upload:
                self._abort(path, unfinished)
        return upload

    def parts(self, key: str, upload: str) -> list[Part]:
        """See `Uploads.parts`."""
        path = self._bucket.path(key)
        found: list[Part] = []
        marker = "0"
        while True:
            query = {"uploadId": upload, "part-number-marker": marker}
            answer = self._ask("GET", path, query, root="ListPartsResult")
            found += map(self._part, answer.iterfind("{*}Part"))
            if not _truncated(answer):
                return sorted(found, key=lambda part: part.number)
            before, marker = marker, _text(answer, "NextPartNumberMarker")
            if self._number(marker) <= int(before):  # for ever, else
                raise self._unreadable()

    def sign(self, key: str, upload: str, number: int, seconds: int, size: int) -> str:
        """See `Uploads.sign`."""
        return presigned(
            "PUT",
            url_of(self._bucket, self._bucket.path(key)),
            self._key,
            self._bucket.region,
            seconds,
            datetime.now(UTC),
            headers={"content-length": str(size)},
            query={"partNumber": str(number), "uploadId": upload},
        )

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """See `Uploads.complete`."""
        path = self._bucket.path(key)
        body = etree.Element("CompleteMultipartUpload")
        for part in parts:
            one = etree.SubElement(body, "Part")
            etree.SubElement(one, "PartNumber").text = str(part.number)
            etree.SubElement(one, "ETag").text = f'"{part.etag}"'
        self._ask(
            "POST",
            path,
            {"uploadId": upload},
            etree.tostring(body),
            create=True,
            silence=_PUTTING_TOGETHER,
            root="CompleteMultipartUploadResult",
        )

    def abort(self, prefix: str) -> None:
        """End every unfinished upload of the key ``prefix`` or of one below it; their parts are gone then."""
        for path, upload in self._unfinished(self._bucket.path(prefix)):
            self._abort(path, upload)

    def _abort(self, path: str, upload: str) -> None:
        with suppress(NotStored):  # it has ended meanwhile
            self._ask("DELETE", path, {"uploadId": upload})

    def _unfinished(self, path: str) -> Iterator[tuple[str, str]]:
        """Path and id of every unfinished upload at a path or below it."""
        markers = {"key-marker": "", "upload-id-marker": ""}
        seen = [markers]
        while True:
            given = {name: marker for name, marker in markers.items() if marker}
            query = {"uploads": "", "prefix": path, **given}
            try:
                answer = self._ask("GET", "", query, root="ListMultipartUploadsResult")
            except NotOffered:  # whoever has no such list may have no uploads either
                return
            for one in answer.iterfind("{*}Upload"):
                found = _text(one, "Key")
                if found == path or found.startswith(f"{path}/"):
                    yield found, _text(one, "UploadId")
            if not _truncated(answer):
                return
            markers = {
                "key-marker": _text(answer, "NextKeyMarker"),
                "upload-id-marker": _text(answer, "NextUploadIdMarker"),
            }
            if markers in seen:  # for ever, else
                raise self._unreadable()
            seen.append(markers)

    def _part(self, said: etree._Element) -> Part:
        etag = _text(said, "ETag").strip().strip('"')
        if not etag.isprintable():  # nor could it be said again
            raise self._unreadable()
        return Part(self._number(_text(said, "PartNumber")), self._number(_text(said, "Size")), etag)

    def _number(self, said: str) -> int:
        try:
            return int(said)
        except ValueError:
            raise self._unreadable() from None

    def _unreadable(self) -> StorageUnavailable:
        return StorageUnavailable(f"{self._bucket.said}: {UNREADABLE}")

    def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes = b"",
        *,
        create: bool = False,
        silence: float | None = None,
        root: str = "",
    ) -> etree._Element:
        return ask(
            self._bucket, self._key, method, path, query, body, create=create, silence=silence, root=root
        )


def _text(element: etree._Element, name: str) -> str:
    """As it is: a key may end in white space."""
    return element.findtext(f"{{*}}{name}") or ""


def _truncated(answer: etree._Element) -> bool:
    return _text(answer, "IsTruncated").strip() == "true"
