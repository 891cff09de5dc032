"""Multipart bodies, part by part as they come: values, and files that go to one temporary file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from tempfile import SpooledTemporaryFile

from werkzeug.exceptions import RequestEntityTooLarge as MultipartTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from uws_server.domain.errors import BadRequest, TooLarge
from uws_server.service.jobs import RequestLimits
from uws_server.web.incoming.body import CHUNK
from uws_server.web.incoming.references import referenced
from uws_server.web.incoming.said import NOT_IN_NAME, Said, Sent, check_name, media_type_of

_IN_MEMORY = 256 * 1024


def read_multipart(
    said: Said, pieces: Iterable[bytes], options: Mapping[str, str], limits: RequestLimits
) -> None:
    """Add what a multipart body says to ``said``: values to its pairs, files to what was sent.

    :raises BadRequest: it is malformed, a part comes twice, or a value is not UTF-8.
    :raises TooLarge: over a limit.
    """
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise BadRequest("the multipart body has no boundary")
    # What the decoder holds at once: a piece, and a header of a part.
    decoder = MultipartDecoder(boundary.encode(), 2 * CHUNK + 8192, max_parts=limits.parameters)
    form = _Form(said, limits)
    ended = False
    try:
        for chunk in pieces:
            decoder.receive_data(chunk)
            ended = form.take(decoder) or ended
        decoder.receive_data(None)
        ended = form.take(decoder) or ended
    except MultipartTooLarge:
        raise TooLarge(
            f"a part's header is too long, or there are more than {limits.parameters} parts"
        ) from None
    except (ValueError, AttributeError) as error:
        # AttributeError: the decoder's own way to stumble over a part without a line break.
        if isinstance(error, UnicodeError):
            raise BadRequest("a part of the multipart body is not UTF-8") from None
        raise BadRequest("the multipart body is broken off or malformed") from None
    if not ended:
        raise BadRequest("the multipart body is broken off or malformed")
    form.settle()


class _Form:
    """Sorts what a multipart decoder finds into values and files."""

    def __init__(self, said: Said, limits: RequestLimits) -> None:
        self._said = said
        self._limits = limits
        self._part: Sent | None = None
        self._file = said.file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (`Said.close` closes it)
        self._written = 0
        self._values = 0

    def take(self, decoder: MultipartDecoder) -> bool:
        """Everything that the decoder has by now; whether the end is reached."""
        while True:
            event = decoder.next_event()
            if isinstance(event, Epilogue):
                return True
            if isinstance(event, NeedData):
                return False
            if isinstance(event, Field | File):
                self._begin(event)
            elif isinstance(event, Data) and self._part is not None:
                self._add(self._part, event.data)

    def _begin(self, event: Field | File) -> None:
        if not event.name:
            raise BadRequest("a part of the multipart body has no name")
        check_name(event.name, self._limits.name_chars)
        filename = event.filename if isinstance(event, File) else None
        if filename is not None and (len(filename) > 1024 or NOT_IN_NAME.search(filename)):
            raise BadRequest(f"the file name of part {event.name!r} is too long or holds control characters")
        media_type = media_type_of(event.headers.get("Content-Type", ""))
        self._part = Sent(event.name, filename, media_type, self._file, self._written)
        self._said.sent.append(self._part)

    def _add(self, part: Sent, data: bytes) -> None:
        part.size += len(data)
        if part.size > self._limits.upload_bytes:
            raise TooLarge(f"part {part.name!r} is larger than {self._limits.upload_bytes} bytes")
        self._file.write(data)
        self._written += len(data)

    def settle(self) -> None:
        """Values from parts that are no files; those that a value names as ``param:`` stay parts."""
        named = {
            reference
            for sent in self._said.sent
            if sent.filename is None and (reference := self._reference(sent)) is not None
        }
        named |= {ref for _, value in self._said.pairs if (ref := referenced(value)) is not None}
        kept = []
        for sent in self._said.sent:
            # A part may be named like the parameter that refers to it: the reference is the one that says so.
            if sent.filename is not None or (sent.name in named and self._reference(sent) is None):
                kept.append(sent)
                continue
            self._values += sent.size
            if self._values > self._limits.value_bytes:
                raise TooLarge(
                    f"values of more than {self._limits.value_bytes} bytes are not taken; send a file"
                )
            try:
                value = b"".join(sent).decode()
            except UnicodeDecodeError:
                raise BadRequest(f"part {sent.name!r} is not UTF-8 text") from None
            self._said.pairs.append((sent.name, value))
        self._said.sent[:] = kept
        names = [sent.name for sent in kept]
        for name in names:
            if names.count(name) > 1:
                raise BadRequest(f"part {name!r} comes twice")

    @staticmethod
    def _reference(sent: Sent) -> str | None:
        if sent.size > 4096:
            return None
        try:
            return referenced(b"".join(sent).decode())
        except UnicodeDecodeError:
            return None
