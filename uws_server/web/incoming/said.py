"""What a request says, in its order, before anybody asks what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any

from uws_server.domain.errors import BadRequest
from uws_server.web.incoming.body import CHUNK, TURN, others_turn

# C0 and C1 controls, surrogates, and what XML cannot hold at all.
NOT_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(?:\s*;\s*[\w-]{1,32}=[\w.+\"-]{1,64}){0,4}", re.ASCII)

Pairs = list[tuple[str, str]]


@dataclass(slots=True)
class Sent:
    """One part of a multipart body. ``filename`` is None for a part that is no file.

    The parts of a body lie one after the other in one file, so that a thousand of them cost no more
    memory and no more descriptors than one.
    """

    name: str
    filename: str | None
    media_type: str
    file: SpooledTemporaryFile[bytes]
    start: int
    size: int = 0

    def __iter__(self) -> Iterator[bytes]:
        at, end = self.start, self.start + self.size
        while at < end:
            self.file.seek(at)  # another part may have been read meanwhile
            chunk = self.file.read(min(CHUNK, end - at))
            at += len(chunk)
            if (at - self.start) % TURN < len(chunk):
                others_turn()
            yield chunk


@dataclass(slots=True)
class Said:
    """What a request says, in its order. ``document`` is a JSON body; ``file`` has what was sent."""

    pairs: Pairs = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    document: dict[str, Any] | None = None
    file: SpooledTemporaryFile[bytes] | None = None

    def close(self) -> None:
        """Let go of what was sent."""
        if self.file is not None:
            self.file.close()

    def one(self, word: str) -> str | None:
        """The value of a control word, in whatever case it came.

        :raises BadRequest: it came more than once.
        """
        values = self.all(word)
        if len(values) > 1:
            raise BadRequest(f"{word} may be given once, not {len(values)} times")
        return values[0] if values else None

    def all(self, word: str) -> list[str]:
        """Every value of a control word."""
        return [value for name, value in self.pairs if name.upper() == word]

    def need(self, word: str) -> str:
        """The value of a control word that has to be there.

        :raises BadRequest: it is missing, or came more than once.
        """
        value = self.one(word)
        if value is None:
            raise BadRequest(f"{word} is missing")
        return value


def check_name(name: str, limit: int) -> None:
    """See that a parameter's name can be one.

    :raises BadRequest: it is empty, too long, or holds what no name can.
    """
    if not name or len(name) > limit:
        raise BadRequest(f"a parameter's name has from 1 to {limit} characters, not {len(name)}")
    # Most names are plain; isprintable is a third of the cost of the search.
    if not name.isprintable() and NOT_IN_NAME.search(name):
        raise BadRequest(f"the parameter name {name[:40]!r} holds control characters")


def media_type_of(text: str) -> str:
    """The media type that a client says its content has; of mere bytes where it says none or several."""
    return text if _MEDIA_TYPE.fullmatch(text) else "application/octet-stream"
