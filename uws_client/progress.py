"""How far things are: one line that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from uws_client.printing import columns, size

_WIDTH = 24


class Progress:
    """Tells a person on ``stream`` how something goes on.

    On a terminal one line is redrawn in place; elsewhere each new state is a line of its own, and
    `bytes` says nothing before its end. ``clock`` is replaced in tests.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._clock = clock
        self._began = clock()
        self._drawn = -1.0
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def state(self, phase: str, done: tuple[int, int] | None = None, note: str = "", unit: str = "") -> None:
        """A job's phase, what is done of how much, and why it is not further."""
        words = phase
        if done is not None:
            words += f"  {done[0]} of {done[1]}" + (f" {unit}" if unit else "")
        if note:
            words += f"  ({note})"
        if not self._live:
            if words != self._said:
                self._say(words)
                self._said = words
            return
        share = done[0] / done[1] if done is not None and done[1] else None
        self._draw(f"{_bar(share)} {words}  {_time(self._clock() - self._began)}")

    def bytes(self, what: str, done: int, of: int | None) -> None:
        """Bytes of an upload or download."""
        if not self._live:
            return
        now = self._clock()
        if now - self._drawn < 0.1 and done != of:
            return
        self._drawn = now
        share = done / of if of else None
        amount = size(done) + (f" of {size(of)}" if of is not None else "")
        self._draw(f"{_bar(share)} {what}  {amount}")

    def clear(self) -> None:
        """Make room for other output."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def end(self) -> None:
        """Leave the last state standing."""
        if self._live and self._said:
            self._stream.write("\n")
            self._stream.flush()
            self._said = ""

    def _say(self, words: str) -> None:
        self._stream.write(words + "\n")
        self._stream.flush()

    def _draw(self, line: str) -> None:
        self._said = line
        room = (columns(self._stream) or 80) - 1
        self._stream.write("\r\x1b[K" + line[:room])
        self._stream.flush()


def _bar(share: float | None) -> str:
    if share is None:
        return "[" + " " * _WIDTH + "]"
    full = round(min(max(share, 0.0), 1.0) * _WIDTH)
    return "[" + "#" * full + "-" * (_WIDTH - full) + "]"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
