"""What people type on the command line, read: parameters and durations."""

from __future__ import annotations

import re
from pathlib import Path

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_CONTROL = {
    "PHASE": "--run or --no-run",
    "RUNID": "--run-id",
    "EXECUTIONDURATION": "--time",
    "DESTRUCTION": "nothing: the server chooses it",
    "ACTION": "`uws-job delete`",
}


def read_seconds(text: str) -> int:
    """Seconds of ``90``, ``90s``, ``30min``, ``1h30m``, ``7d``.

    :raises ValueError: it is none of these.
    """
    pieces = re.findall(r"(\d{1,9})\s*([a-z]*)\s*", text.strip().lower())
    whole = "".join(f"{number}{unit}" for number, unit in pieces)
    if (
        not pieces
        or whole != re.sub(r"\s", "", text.lower())
        or any(unit not in _UNITS for _, unit in pieces)
    ):
        raise ValueError(f"{text!r} is no duration such as 90, 90s, 30min, 1h30m or 7d")
    return sum(int(number) * _UNITS[unit] for number, unit in pieces)


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
