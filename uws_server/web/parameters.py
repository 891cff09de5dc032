"""Parameters at the door: what a request says, whichever way it says it.

Names come in any case (DALI-06), from the query string, from a urlencoded, a multipart or a JSON body
(UWS-55), and repeated ones stay repeated (UWS-64). Files beyond a quarter of a megabyte go to
a temporary file, so that memory stays bounded. Whatever cannot be read is refused with one sentence and a
4xx; nothing here knows what a parameter means, except for the protocol's own words.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from flask import Request
from gevent import Timeout
from werkzeug.exceptions import RequestEntityTooLarge as MultipartTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from uws_server.domain.errors import BadRequest, TooLarge, WrongType
from uws_server.domain.instants import Instant, from_iso
from uws_server.domain.job import Parameter
from uws_server.domain.phase import Phase
from uws_server.service.jobs import Content, Limits
from uws_server.web.errors import TooSlow
from uws_server.web.parts import Bounds

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"

_WORDS = "PHASE RUNID EXECUTIONDURATION DESTRUCTION ACTION WAIT AFTER LAST UPLOAD REQUEST"
CONTROL = frozenset(_WORDS.split())
"""Words of UWS and DALI. ``REQUEST`` is taken and ignored: a service here has one operation."""

_REFUSED = frozenset({"ACTION", "WAIT", "AFTER", "LAST"})  # mean something elsewhere, nothing at creation
_CHUNK = 64 * 1024
_IN_MEMORY = 256 * 1024
_ESCAPES = 20_000
_TURN = 4 * 1024**2  # bytes of a body that comes as fast as it is read, after which others get their turn
_YIELD = 0.001  # s; with 0 gevent would look at who is ready already, and at no connection
_RUN_ID_CHARS = 64
_MAX_DURATION = 2**31 - 1
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_UPLOAD = re.compile(r"([A-Za-z][A-Za-z0-9_]*),(\S+)", re.ASCII)
_NEXT_UPLOAD = re.compile(r";(?=[A-Za-z][A-Za-z0-9_]*,)", re.ASCII)  # URLs, too, may hold semicolons
_INLINE = "param:"
# C0 and C1 controls, surrogates, and what XML cannot hold at all.
_NOT_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
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
            chunk = self.file.read(min(_CHUNK, end - at))
            at += len(chunk)
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


@dataclass(frozen=True, slots=True)
class Wish:
    """What the creation of a job says, before the template has looked at it."""

    parameters: tuple[Parameter, ...]
    uploads: dict[str, Content]
    run: bool = False
    run_id: str = ""
    duration: int | None = None
    destruction: Instant | None = None


# -- reading -----------------------------------------------------------------------------------------


def query_pairs(environ: Mapping[str, Any], limit: int) -> Pairs:
    """The names and values of the query string.

    :raises BadRequest: it is not UTF-8.
    :raises TooLarge: more than ``limit`` of them.
    """
    text = environ.get("QUERY_STRING", "")
    # WSGI hands over bytes as Latin-1.
    return _pairs(text.encode("latin-1"), limit) if text else []


@contextmanager
def reading(request: Request, limits: Limits, bounds: Bounds) -> Iterator[Said]:
    """What a request with a body says: its query string first, then its body.

    Files stay readable until the end of the ``with`` block.

    :raises BadRequest: it cannot be understood.
    :raises TooLarge: too many bytes, or too many parameters.
    :raises WrongType: a body of another type.
    :raises TooSlow: the body does not come.
    """
    said = Said(query_pairs(request.environ, limits.parameters))
    content_type = request.environ.get("CONTENT_TYPE", "")
    try:
        if content_type.startswith(FORM):
            said.pairs += _pairs(whole(request, bounds.body_bytes, bounds), limits.parameters)
        elif content_type:
            _read_typed(said, request, content_type, limits, bounds)
        elif whole(request, bounds.body_bytes, bounds):
            raise WrongType(f"a body needs a Content-Type; taken are {FORM}, {MULTIPART} and {JSON}")
        if len(said.pairs) > limits.parameters:
            raise TooLarge(f"more than {limits.parameters} parameters are not taken")
        for name in _names(said):
            check_name(name, limits.name_chars)
        yield said
    finally:
        said.close()


def _names(said: Said) -> Iterator[str]:
    yield from (name for name, _ in said.pairs)
    inner = (said.document or {}).get("parameters")
    if isinstance(inner, dict):
        yield from inner


def _read_typed(said: Said, request: Request, content_type: str, limits: Limits, bounds: Bounds) -> None:
    media_type, options = parse_options_header(content_type)
    if media_type == MULTIPART:
        _read_multipart(said, request, options, limits, bounds)
    elif media_type == FORM:
        said.pairs += _pairs(whole(request, bounds.body_bytes, bounds), limits.parameters)
    elif media_type == JSON:
        said.document = _document(whole(request, bounds.body_bytes, bounds), limits)
        said.pairs += [
            (name, text) for name, value in said.document.items() if (text := _scalar(value)) is not None
        ]
    else:
        raise WrongType(
            f"a body of type {media_type[:80]!r} is not taken; send {FORM}, {MULTIPART} or {JSON}"
        )


def chunks(request: Request, limit: int, bounds: Bounds) -> Iterator[bytes]:
    """The body of a request, piece by piece.

    :raises TooLarge: more than ``limit`` bytes.
    :raises BadRequest: it breaks off.
    :raises TooSlow: a piece does not come within ``bounds.patience``.
    """
    announced = request.content_length
    if announced is not None and announced > limit:
        raise TooLarge(f"a body of {announced} bytes is more than the {limit} taken")
    # Checked below, with a sentence of ours.
    request.max_content_length = None
    stream = request.stream
    received = 0
    while True:
        chunk = _next(request, stream.read, bounds.patience)
        if not chunk:
            break
        if received // _TURN < (received + len(chunk)) // _TURN:
            time.sleep(_YIELD)
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"a body of more than {limit} bytes is not taken")
        yield chunk
    if announced is not None and received < announced:
        raise BadRequest("the body ended before its announced length")


def whole(request: Request, limit: int, bounds: Bounds) -> bytes:
    """The body of a request, for bodies that are small.

    :raises TooLarge: more than ``limit`` bytes.
    """
    return b"".join(chunks(request, limit, bounds))


def _next(request: Request, read: Callable[[int], bytes], patience: float) -> bytes:
    timer = Timeout(patience)
    timer.start()
    try:
        return read(_CHUNK)
    except Timeout as timeout:
        if timeout is not timer:
            raise
        # So that the server does not wait for the rest before it takes the connection away.
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            connection.shutdown(socket.SHUT_RD)
        raise TooSlow(f"the body did not come within {patience:g} s") from None
    except Exception as error:  # each server has its own for chunks that are none
        raise BadRequest("the body broke off or is malformed") from error
    finally:
        timer.close()


def _pairs(encoded: bytes, limit: int) -> Pairs:
    # Counted before anything is made of it: 10,000 parameters cost no more than reading them.
    if encoded.count(b"&") >= limit:
        raise TooLarge(f"more than {limit} parameters are not taken")
    try:
        if encoded.count(b"%") <= _ESCAPES:
            return parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict")
        split = (piece.replace(b"+", b" ").partition(b"=") for piece in encoded.split(b"&") if piece)
        return [(_unescaped(name), _unescaped(value)) for name, _, value in split]
    except ValueError:
        raise BadRequest("the parameters are not UTF-8") from None


def _unescaped(encoded: bytes) -> str:
    # Block by block, as the library makes a list of all escapes, seventy times what they take; and others
    # get their turn between the blocks.
    found = bytearray()
    at = 0
    while at < len(encoded):
        end = at + _CHUNK
        escape = encoded.rfind(b"%", end - 2, end)
        if escape >= 0:
            end = escape
        found += unquote_to_bytes(encoded[at:end])
        at = end
        time.sleep(_YIELD)
    return found.decode()


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    # Each of these is a character of some value, or belongs to one of the members. Counted before anything
    # is made of them: sixteen megabytes of empty objects are a gigabyte in memory.
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > limits.value_bytes + 4 * limits.parameters + 100:
        raise TooLarge(
            f"the JSON body holds more than the {limits.value_bytes} characters that values may have"
        )

    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) < len(members):
            raise ValueError("a name stands twice in one object")
        return found

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        document = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise BadRequest("the JSON body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise BadRequest("the JSON body is to be an object")
    return document


def _scalar(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _read_multipart(
    said: Said, request: Request, options: Mapping[str, str], limits: Limits, bounds: Bounds
) -> None:
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise BadRequest("the multipart body has no boundary")
    # What the decoder holds at once: a piece, and a header of a part.
    decoder = MultipartDecoder(boundary.encode(), 2 * _CHUNK + 8192, max_parts=limits.parameters)
    form = _Form(said, limits)
    ended = False
    try:
        for chunk in chunks(request, bounds.upload_bytes, bounds):
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

    def __init__(self, said: Said, limits: Limits) -> None:
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
        if filename is not None and (len(filename) > 1024 or _NOT_IN_NAME.search(filename)):
            raise BadRequest(f"the file name of part {event.name!r} is too long or holds control characters")
        media_type = event.headers.get("Content-Type", "")
        if not _MEDIA_TYPE.fullmatch(media_type):
            media_type = "application/octet-stream"
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
        named |= {ref for _, value in self._said.pairs if (ref := _referenced(value)) is not None}
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
            return _referenced(b"".join(sent).decode())
        except UnicodeDecodeError:
            return None


def _referenced(value: str) -> str | None:
    """``x`` of ``param:x``, and of an UPLOAD's ``name,param:x``."""
    if value.startswith(_INLINE):
        return value.removeprefix(_INLINE)
    match = _UPLOAD.fullmatch(value)
    return _referenced(match[2]) if match and match[2].startswith(_INLINE) else None


def check_name(name: str, limit: int) -> None:
    """See that a parameter's name can be one.

    :raises BadRequest: it is empty, too long, or holds what no name can.
    """
    if not name or len(name) > limit:
        raise BadRequest(f"a parameter's name has from 1 to {limit} characters, not {len(name)}")
    # Most names are plain; isprintable is a third of the cost of the search.
    if not name.isprintable() and _NOT_IN_NAME.search(name):
        raise BadRequest(f"the parameter name {name[:40]!r} holds control characters")


# -- understanding -------------------------------------------------------------------------------------


def wish(said: Said, repeated: Callable[[str], bool]) -> Wish:
    """A job as a request describes it (UWS-54, UWS-56, UWS-57).

    :param repeated: whether a parameter may stand several times, so that a JSON list means that.
    :raises BadRequest: it cannot be understood.
    """
    if said.document is not None:
        return _wish_of_document(said, repeated)
    for word in _REFUSED:
        if said.one(word) is not None:
            raise BadRequest(f"{word} is a word of the protocol and means nothing when a job is created")
    parameters, uploads = described(said)
    duration, destruction = said.one("EXECUTIONDURATION"), said.one("DESTRUCTION")
    return Wish(
        parameters,
        uploads,
        _run(said.one("PHASE")),
        read_run_id(said.one("RUNID")) or "",
        None if duration is None else read_duration(duration),
        None if destruction is None else read_instant("DESTRUCTION", destruction),
    )


def described(said: Said) -> tuple[tuple[Parameter, ...], dict[str, Content]]:
    """The job parameters of a form, and the content of those that come inline.

    :raises BadRequest: an inline part is missing or named twice.
    """
    waiting = {sent.name: sent for sent in said.sent}
    used: set[str] = set()
    parameters: list[Parameter] = []
    uploads: dict[str, Content] = {}

    def inline(name: str, part: str) -> None:
        sent = waiting.get(part)
        if sent is None:
            raise BadRequest(
                f"parameter {name!r} refers to {_INLINE}{part[:80]}, but no such part came along"
            )
        if name in uploads:
            raise BadRequest(f"parameter {name!r} comes with two files")
        used.add(part)
        uploads[name] = Content(sent, sent.media_type)
        parameters.append(Parameter(name, sent.filename or sent.name))

    for name, value in _with_uploads(said):
        if value.startswith(_INLINE):
            inline(name, value.removeprefix(_INLINE))
        elif name.upper() not in CONTROL:
            parameters.append(Parameter(name, value))
    for sent in said.sent:
        if sent.name not in used:
            inline(sent.name, sent.name)
    return tuple(parameters), uploads


def _with_uploads(said: Said) -> Iterator[tuple[str, str]]:
    """The pairs, with each ``UPLOAD=name,uri`` read as the parameter ``name`` (DALI section 3.4.5).

    Several may stand in one value, ``name,uri;name,uri``: TAP began so, and pyvo still writes it.
    """
    seen: set[str] = set()
    for name, value in said.pairs:
        if name.upper() != "UPLOAD":
            yield name, value
            continue
        for one in _NEXT_UPLOAD.split(value):
            match = _UPLOAD.fullmatch(one)
            if match is None:
                raise BadRequest(f"UPLOAD={value[:80]!r} is not name,uri")
            if match[1].lower() in seen or match[1].upper() in CONTROL:
                raise BadRequest(f"UPLOAD names {match[1]!r}, which is taken")
            seen.add(match[1].lower())
            yield match[1], match[2]


def _wish_of_document(said: Said, repeated: Callable[[str], bool]) -> Wish:
    from uws_server.web.models import read_new_job

    if said.document is None:
        raise BadRequest("the body is no JSON object")
    new = read_new_job(said.document)
    # The query string may say PHASE=RUN as with any other body.
    phase = said.one("PHASE")
    return Wish(
        tuple(_from_json(new.parameters, repeated)),
        {},
        new.run or _run(phase),
        read_run_id(new.run_id) or "",
        new.execution_duration,
        None if new.destruction is None else read_instant("destruction", new.destruction),
    )


def json_parameters(document: Mapping[str, Any], repeated: Callable[[str], bool]) -> tuple[Parameter, ...]:
    """The parameters of a JSON object posted to ``/parameters``: its members, or those of ``parameters``."""
    inner = document.get("parameters")
    members = inner if len(document) == 1 and isinstance(inner, dict) else document
    return tuple(_from_json(members, repeated))


def _from_json(members: Mapping[str, Any], repeated: Callable[[str], bool]) -> Iterator[Parameter]:
    for name, value in members.items():
        values: Iterable[Any] = value if isinstance(value, list) and repeated(name) else [value]
        for each in values:
            text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
            if text.startswith(_INLINE):
                raise BadRequest(f"parameter {name!r} refers to a part, but a JSON body has none")
            yield Parameter(name, text)


def _run(phase: str | None) -> bool:
    if phase not in (None, "RUN"):
        raise BadRequest(f"PHASE={str(phase)[:40]!r} is not taken when a job is created; PHASE=RUN is")
    return phase is not None


def read_run_id(text: str | None) -> str | None:
    """A client's own name for a job (UWS-18); None when it gave none.

    :raises BadRequest: it is too long, or no text.
    """
    if text is not None and (len(text) > _RUN_ID_CHARS or NOT_IN_XML.search(text)):
        raise BadRequest(f"RUNID takes at most {_RUN_ID_CHARS} characters, none of them a control character")
    return text


def read_duration(text: str) -> int:
    """An execution duration in seconds, 0 = unlimited (UWS-15).

    :raises BadRequest: no whole number of seconds that fits 32 bits.
    """
    value = _integer(text)
    if value is None or not 0 <= value <= _MAX_DURATION:
        raise BadRequest(
            f"EXECUTIONDURATION={text[:40]!r} is no whole number of seconds from 0 to {_MAX_DURATION}"
        )
    return value


def read_instant(word: str, text: str) -> Instant:
    """An instant as clients write it (UWS-32).

    :raises BadRequest: it is none.
    """
    try:
        return from_iso(text)
    except ValueError as error:
        raise BadRequest(f"{word}: {error}") from None


def read_phase(text: str) -> Phase:
    """A phase word.

    :raises BadRequest: it is none.
    """
    try:
        return Phase(text)
    except ValueError:
        raise BadRequest(f"{text[:40]!r} is no phase; phases are {', '.join(Phase)}") from None


def read_wait(said: Said, most: float) -> tuple[float, Phase | None] | None:
    """How many seconds to wait at most, and while in which phase; None for a request without WAIT.

    :raises BadRequest: WAIT is no integer from -1 on, or PHASE no phase (UWS-49).
    """
    text = said.one("WAIT")
    if text is None:
        return None
    seconds = _integer(text)
    if seconds is None or seconds < -1:
        raise BadRequest(f"WAIT={text[:40]!r} is no whole number of seconds, nor -1")
    phase = said.one("PHASE")
    return (
        most if seconds == -1 else min(seconds, most),
        None if phase is None else read_phase(phase),
    )


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs a list is to show."""

    phases: tuple[Phase, ...] = ()
    after: Instant | None = None
    last: int | None = None
    cursor: tuple[Instant, str] | None = None


def read_filters(said: Said) -> Filters:
    """The filters of a job list (UWS-35 to UWS-39); ``CURSOR`` is ours, for the next page of a JSON list.

    :raises BadRequest: one of them cannot be read, or stands twice where it may not.
    """
    after, last, cursor = said.one("AFTER"), said.one("LAST"), said.one("CURSOR")
    count = None if last is None else _integer(last)
    if last is not None and (count is None or count <= 0):
        raise BadRequest(f"LAST={last[:40]!r} is no whole number above 0")
    seen = None
    if cursor is not None:
        created, _, job_id = cursor.partition("-")
        number = _integer(created)
        if number is None or not re.fullmatch(r"[0-9a-v]{26}", job_id):
            raise BadRequest(f"CURSOR={cursor[:60]!r} is not from a job list of this server")
        seen = number, job_id
    return Filters(
        tuple(read_phase(text) for text in said.all("PHASE")),
        None if after is None else read_instant("AFTER", after),
        count,
        seen,
    )


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None
