"""How much the user's code has written, measured again and again in short slices."""

from __future__ import annotations

import os
import time

from runners import ending
from runners.local import trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TICK = 0.25  # seconds between two looks, at least
_SLICE = 0.01  # seconds of one piece of a look


class DiskWatch:
    """Looks again and again, in short slices, at how much the user's code has written.

    What it reads in counts elsewhere; files that are deleted but still open count here too.
    """

    def __init__(self, work: str, disk: int, outputs: int) -> None:
        self._work = work
        self._limits = {"outputs": outputs, "": disk}
        self._walk: Iterator[tuple[str, int]] | None = None
        self._sums: dict[str, int] = {}
        self._spent = 0.0
        self.due = time.monotonic() + _TICK

    def look(self, pids: Callable[[], set[int]], seconds: float = _SLICE) -> str:
        """Look on for so long. What was written too much of, in words; '' while it is not."""
        begun = time.monotonic()
        if self._walk is None:
            self._walk, self._sums, self._spent = self._entries(pids), {"outputs": 0, "": 0}, 0.0
        found = ""
        try:
            for place, size in self._walk:
                self._sums[""] += size
                if place == "outputs":
                    self._sums[place] += size
                if found := self._too_much():
                    break
                if time.monotonic() - begun > seconds:
                    self._spent += time.monotonic() - begun
                    self.due = time.monotonic() + 2 * seconds
                    return ""
        except trees.TooDeep:
            found = f"nested directories deeper than {trees.DEEPEST} levels"
        self._walk = None
        moment = time.monotonic()
        self.due = moment + max(_TICK, 20 * (self._spent + moment - begun))
        return found

    def _too_much(self) -> str:
        if self._sums[""] > self._limits[""] - self._slack(""):
            return f"wrote more to disk than its limit of {ending.size(self._limits[''])}"
        if self._sums["outputs"] > self._limits["outputs"] - self._slack("outputs"):
            return f"wrote more output than its limit of {ending.size(self._limits['outputs'])}"
        return ""

    def _slack(self, place: str) -> int:
        """A file cut off at the limit by the kernel has, with its directory, reached it."""
        return min(4096, self._limits[place] // 2)

    def _entries(self, pids: Callable[[], set[int]]) -> Iterator[tuple[str, int]]:
        for place in os.listdir(self._work):
            if place == "inputs":
                continue
            for size in trees.usage(f"{self._work}/{place}"):
                yield place, size
        for size in trees.deleted(pids(), os.stat(self._work).st_dev):
            yield "tmp", size
