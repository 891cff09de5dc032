"""What people type on the command line, read: parameters and durations."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBER = r"(\d{1,9})\s*"
_DURATION = re.compile(
    rf"(?:{_NUMBER})|(?:{_NUMBER}d\s*)?(?:{_NUMBER}h\s*)?(?:{_NUMBER}(?:min|m)\s*)?(?:{_NUMBER}s)?", re.ASCII
)
_SECONDS = (1, 86400, 3600, 60, 1)
_CONTROL = {
    "PHASE": "--run or --no-run",
    "RUNID": "--run-id",
    "EXECUTIONDURATION": "--time",
    "DESTRUCTION": "nothing: the server chooses it",
    "ACTION": "`uws-job delete`",
}


def read_seconds(text: str) -> int:
    """Seconds of ``90``, ``90s``, ``30min``, ``1h30m``, ``7d``: a unit after each number, the largest first.

    :raises ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise ValueError(
            f"{text!r} is no duration; accepted are 90 (seconds), 90s, 30min or 30m, 1h30m, 2d, 2d12h"
        )
    return sum(int(number or 0) * unit for number, unit in zip(match.groups(), _SECONDS, strict=True))


def read_parameter(text: str) -> tuple[str, str | Path]:
    """Name and value of ``NAME=VALUE``; that of ``NAME=@FILE`` is the file, of ``NAME=@@x`` the text ``@x``.

    :raises ValueError: it is none of these, or the file cannot be read, or the name is a word of UWS itself.
    """
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ValueError(f"{text!r} is not NAME=VALUE or NAME=@FILE")
    if name.upper() in _CONTROL:
        raise ValueError(f"{name} is a word of UWS itself and no parameter; use {_CONTROL[name.upper()]}")
    if value.startswith("@@"):
        return name, value[1:]
    if not value.startswith("@"):
        return name, value
    path = Path(value[1:]).expanduser()
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {what}, so it cannot be sent as {name} (write {name}=@@… for text that begins with @)"
        )
    return name, path
