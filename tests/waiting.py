"""How tests wait: for a condition, and long enough for the slowest machine that they run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0
"""Seconds. Nobody waits as long where all is well, so it is no claim about how fast anything is."""

_FIRST_PAUSE = 0.01  # seconds; what takes long is asked less often, as the asking takes from it
_LONGEST_PAUSE = 0.05

T = TypeVar("T")


def until(holds: Callable[[], T | None], what: str | Callable[[], object], seconds: float = PATIENCE) -> T:
    """Ask again and again; the first answer that is true.

    :param what: what is waited for; a function is asked at the failure, and can tell how things stand.
    :raises AssertionError: there was none in time.
    """
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not (answer := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)
    return answer
