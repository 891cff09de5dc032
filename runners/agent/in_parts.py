"""A large result on its way, part by part: what is there already stays there, whoever is killed.

The server says which parts are missing. The agent notes which upload it began for which state of the file,
before the first part leaves, so that no object is ever made of parts of two contents.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runners.agent.deadline import Deadline, backoff
from runners.agent.door import Away, Door, PartsMissing
from runners.agent.stage_out import Changed, Reading
from uws_server.domain.wire import PartLink, WantedParts

_TRIES = 3


class InParts:
    """One result that goes in parts.

    ``noted`` is the upload that was begun for just this content, empty for none; ``note`` writes down another
    one. ``patience`` is how many seconds no part may arrive.
    """

    def __init__(
        self, door: Door, deadline: Deadline, patience: float, noted: str, note: Callable[[str], None]
    ) -> None:
        self._door = door
        self._deadline = deadline
        self._patience = patience
        self._upload = noted
        self._note = note

    def store(self, name: str, file: Reading) -> None:
        """Store the parts that are missing, and have the object put together.

        :raises Changed: somebody writes to the file.
        :raises Away: the object store takes no part.
        :raises Refused: it loses them all, again and again.
        """
        for left in reversed(range(_TRIES)):
            self._send(name, file)
            try:
                return self._door.complete(WantedParts(name, file.size, self._upload))
            except PartsMissing:  # the upload has ended, or its parts were cut at other places meanwhile
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _send(self, name: str, file: Reading) -> None:
        failures, since = 0, time.monotonic()
        taken: set[tuple[int, int]] = set()
        while missing := self._missing(name, file):
            fault, before, taken = "", taken, set()
            for link in missing:
                file.hash_up_to(link.start)
                fault = self._door.put_part(link, file.part(link.start, link.size))
                if fault:
                    break
                taken.add((link.number, link.size))
                if (link.number, link.size) not in before:
                    failures, since = 0, time.monotonic()
            if taken <= before:  # nothing arrived that did not seem to have arrived just before
                taken = before
                if not fault:
                    fault = "does not have the parts that it took"
                    since = since if failures else time.monotonic()  # sending them may have taken long
            if fault:
                if time.monotonic() - since >= self._patience:
                    raise Away(f"the object store {fault} for {self._patience:.0f} s")
                failures += 1
                self._deadline.pause(backoff(failures))
        file.hash_up_to(file.size)
        if file.touched():
            raise Changed("it is still being written to")

    def _missing(self, name: str, file: Reading) -> list[PartLink]:
        """The next parts that are missing; another upload than the one so far is noted first."""
        next_ = self._door.parts(WantedParts(name, file.size, self._upload))
        if next_.upload != self._upload:
            self._note(next_.upload)
            self._upload = next_.upload
        return next_.missing
