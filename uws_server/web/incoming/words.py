"""The protocol's own words in a request: read, and refused when they cannot be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from uws_server.domain.errors import BadRequest
from uws_server.domain.instants import Instant, from_iso
from uws_server.domain.phase import Phase
from uws_server.web.incoming.said import Said
from uws_server.web.render_xml import NOT_IN_XML

_WORDS = "PHASE RUNID EXECUTIONDURATION DESTRUCTION ACTION WAIT AFTER LAST UPLOAD REQUEST"
CONTROL = frozenset(_WORDS.split())
"""Words of UWS and DALI. ``REQUEST`` is taken and ignored: a service here has one operation."""

_RUN_ID_CHARS = 64
_MAX_DURATION = 2**31 - 1
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


def read_run(phase: str | None) -> bool:
    """Whether a job is to be started as it is made.

    :raises BadRequest: another phase than RUN (UWS-57).
    """
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
