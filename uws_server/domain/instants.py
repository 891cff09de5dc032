"""Instants: integer milliseconds since 1970 UTC inside, ISO 8601 with ``Z`` outside (UWS-30 to UWS-32).

Milliseconds, so that the instant a client reads is exactly the one stored: a client that asks
``AFTER`` the creation time it was shown does not get that same job again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

Instant = int

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INPUT = re.compile(
    r"(?P<year>\d{4})"
    r"(?:-?(?P<month>\d{2})(?:-?(?P<day>\d{2})"
    r"(?:[T ](?P<hour>\d{2}):?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?Z?)?)?)?"
)


def to_iso(instant: Instant) -> str:
    """``2026-11-03T08:59:58.120Z``.

    :param instant: milliseconds since 1970 UTC, within the years 1 to 9999.
    """
    seconds, milliseconds = divmod(instant, 1000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}.{milliseconds:03d}Z"  # %Y does not pad early years


def from_iso(text: str) -> Instant:
    """Read an instant as clients write it: a year or a date, with or without a time after ``T`` or a space.

    ``Z`` or no zone means UTC; any other offset is refused (UWS-32). Finer fractions are cut to milliseconds.

    :raises ValueError: with a sentence that quotes the text.
    """
    match = _INPUT.fullmatch(text.strip())
    if match is None or not text.isascii():
        raise ValueError(f"{text[:64]!r} is not an instant in UTC such as 2026-11-03T09:00:01Z")
    part = match.groupdict()
    try:
        moment = datetime(
            int(part["year"]),
            int(part["month"] or 1),
            int(part["day"] or 1),
            int(part["hour"] or 0),
            int(part["minute"] or 0),
            int(part["second"] or 0),
            tzinfo=UTC,
        )
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is not an instant: {error}") from error
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return seconds * 1000 + int((part["fraction"] or "0").ljust(3, "0")[:3])
