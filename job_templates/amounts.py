"""Amounts as people write them: cores ("0.5"), sizes ("4GiB"), durations ("12h")."""

from __future__ import annotations

import re

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1000**power for power, letter in enumerate("kmgt", 1) for unit in (letter, f"{letter}b")},
    **{unit: 1024**power for power, letter in enumerate("kmgt", 1) for unit in (f"{letter}i", f"{letter}ib")},
}
_TIME_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_AMOUNT = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s?([A-Za-z]{0,3})", re.ASCII)


def _amount(text: str, units: dict[str, int], example: str, thousandths: int = 1) -> int:
    match = _AMOUNT.fullmatch(text.strip())
    scale = units.get(match[3].casefold()) if match else None
    if match is None or scale is None:
        raise ValueError(example)
    whole, fraction, _ = match.groups(default="")
    # In whole numbers: 0.1 TiB must not depend on how a float rounds.
    digits: str = whole + fraction
    return int(digits) * scale * thousandths // int("1".ljust(len(fraction) + 1, "0"))


def read_cores(text: str) -> int:
    """Thousandths of a core: "2", "0.5" and "500m" (as Kubernetes writes it).

    :raises ValueError: says what is accepted.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,9}m", text, re.ASCII):
        return int(text[:-1])
    return _amount(text, {"": 1}, "a number of cores such as 2 or 0.5", 1000)


def read_size(text: str) -> int:
    """Bytes: "1048576", "1.5 GiB", "4GB", "512Mi"; letters in either case.

    :raises ValueError: says what is accepted.
    """
    return _amount(text, _SIZE_UNITS, "a size such as 4GiB, 500MB or a number of bytes")


def read_count(text: str) -> int:
    """A whole number.

    :raises ValueError: says what is accepted.
    """
    if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        raise ValueError("a whole number")
    return int(text)


def read_duration(text: str) -> int:
    """Seconds: "3600", "90 s", "30min", "12h", "7d".

    :raises ValueError: says what is accepted.
    """
    return _amount(text, _TIME_UNITS, "a duration such as 30min, 12h, 7d or a number of seconds")


def write_size(size: int) -> str:
    """A number of bytes for people: the largest unit in which it is whole."""
    for power, letter in reversed(list(enumerate("KMGT", 1))):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power} {letter}iB"
    return f"{size} B"


def write_duration(seconds: int) -> str:
    """A number of seconds for people."""
    return f"{seconds} s"


def write_cores(milli: int) -> str:
    """Thousandths of a core as a number of cores."""
    return f"{milli / 1000:g}"
