"""User ids for attempts, one each, from a range that nobody else may use."""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runners.base import Busy


class Uids:
    """The user ids `first` to `last`, shared by all sites of this machine through a registry.

    The registry is a directory with a link per user id that is taken, to the directory of its attempt.
    """

    def __init__(self, registry: Path, first: int, last: int) -> None:
        self._registry = registry
        self._first = first
        self._count = last - first + 1

    def allot(self, directory: Path) -> int:
        """One that no living attempt on this machine has; the same again for the same attempt.

        :raises Busy: all are taken.
        """
        offset = zlib.crc32(os.fsencode(directory))
        with self._alone():
            for step in range(self._count):
                uid = self._first + (offset + step) % self._count
                link = self._registry / str(uid)
                try:
                    holder = os.readlink(link)
                except FileNotFoundError:
                    os.symlink(directory, link)
                    return uid
                if holder == str(directory):
                    return uid
                if not os.path.exists(holder):  # forgotten, by a server killed before it said so
                    os.unlink(link)
                    os.symlink(directory, link)
                    return uid
        raise Busy(f"All {self._count} user ids of the site are taken.")

    def release(self, directory: Path, uid: int) -> None:
        """Give it back, if this attempt has it."""
        link = self._registry / str(uid)
        with self._alone():
            try:
                if os.readlink(link) == str(directory):
                    link.unlink()
            except FileNotFoundError:
                pass

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._registry / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
