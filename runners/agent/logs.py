"""Logs on their way to the object store, while they grow."""

from __future__ import annotations

import hashlib
import math
import os

from runners.agent.attempt_dir import AttemptDir
from runners.agent.door import Door, Refused
from runners.agent.memory import Memory
from uws_server.domain.wire import STREAMS, Wanted, segment_name

SEGMENT = 4 * 1024**2  # bytes of a log that go in one object
SHORTEST_PAUSE = 0.25  # s between uploads of a log
_LONGEST_PAUSE = 30.0


def pace(seconds: float) -> float:
    """Seconds between uploads of a log, that long after the start.

    Metaflow's rule: a quarter of a second for the first ten minutes, when somebody is looking,
    growing along a sigmoid to half a minute.
    """
    return SHORTEST_PAUSE + _LONGEST_PAUSE / (1.0 + math.exp(9.0 - 0.01 * min(seconds, 1e4)))


class Logs:
    """Uploads the log files in segments that are named by where they start."""

    def __init__(self, attempt: AttemptDir, memory: Memory, door: Door) -> None:
        self._attempt = attempt
        self._memory = memory
        self._door = door
        self.refused = ""

    def upload(self) -> bool:
        """Store the next segment of each stream that has one; whether there was any."""
        begun = []
        for stream in STREAMS:
            offset, size = self._memory.logs[stream]
            size = size or min(SEGMENT, self._length(stream) - offset)
            if size > 0:
                self._memory.logs[stream] = offset, size
                begun.append((stream, offset, size))
        if not begun or self.refused:
            return False
        self._memory.save(self._attempt)
        wanted = [Wanted("PUT", segment_name(stream, offset), size) for stream, offset, size in begun]
        try:
            links = self._door.links(wanted)
            for (stream, offset, size), want, link in zip(begun, wanted, links, strict=True):
                content = self._read(stream, offset, size)
                self._door.put(want, lambda: (content,), "text/plain", link)  # noqa: B023 - used at once
                self._memory.logs[stream] = offset + size, 0
        except Refused as error:
            # A log that may not be stored must not cost the results.
            self.refused = f"The log is not complete: {error}"
            return False
        self._memory.save(self._attempt)
        return True

    def upload_all(self) -> None:
        """Store what is left."""
        while self.upload():
            pass

    def sha256(self, stream: str) -> str:
        """Of what is stored of a stream, in hexadecimal digits."""
        whole = hashlib.sha256()
        end = self._memory.logs[stream][0]
        for offset in range(0, end, SEGMENT):
            whole.update(self._read(stream, offset, min(SEGMENT, end - offset)))
        return whole.hexdigest()

    def _length(self, stream: str) -> int:
        try:
            file = self._attempt.open_hostile(("logs", stream))
        except OSError:  # not there yet; or, in a pod, user code put something else in its place
            return 0
        try:
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def _read(self, stream: str, offset: int, size: int) -> bytes:
        try:
            with os.fdopen(self._attempt.open_hostile(("logs", stream)), "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError:
            content = b""
        # Nothing takes bytes out of a log; should a disk lose some, the size promised is kept.
        return content.ljust(size, b"\0")
