"""One output stream of the user's process, kept in a file of bounded size."""

from __future__ import annotations

import os

_RING = 1024**2
_CHUNK = 1024**2
_MARK_ROOM = 100


class CappedLog:
    """Copies a pipe into a file: its head as it comes, its last MiB at the end, the gap marked.

    The pipe is always read on, so that a talkative program is neither blocked nor slowed; a full
    disk loses output, never the job.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._ring_size = min(_RING, limit // 4)
        self._room = max(0, limit - self._ring_size - _MARK_ROOM)
        self._ring = bytearray()
        self._left_out = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def copy(self, pipe: int) -> bool:
        """Take what the pipe holds, at most one MiB. False at its end, or when it has nothing now."""
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return False
        self.write(data)
        return bool(data)

    def write(self, data: bytes) -> None:
        """Keep these bytes, or count them as left out."""
        if self._room:
            head = data[: self._room]
            self._room -= len(head)
            self._store(head)
            data = data[len(head) :]
        if data:
            self._ring += data
            if len(self._ring) > 4 * self._ring_size + _CHUNK:
                self._trim()

    def close(self) -> None:
        """Write the mark and the tail."""
        self._trim()
        if self._left_out:
            self._store(b"\n[... %d bytes of output left out ...]\n" % self._left_out)
        self._store(bytes(self._ring))
        self._ring.clear()
        os.close(self._file)

    def _trim(self) -> None:
        surplus = len(self._ring) - self._ring_size
        if surplus > 0:
            self._left_out += surplus
            del self._ring[:surplus]

    def _store(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:  # no space left: what is missing is counted
            self._left_out += len(view)
