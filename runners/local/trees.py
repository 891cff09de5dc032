"""Measure and remove a directory tree that hostile code has made.

Nothing here follows a link, needs more than a bounded number of descriptors, or trusts names,
depth or permissions.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST = 200
_MOST_PROCESSES = 256  # bounds on one look for deleted files
_MOST_DESCRIPTORS = 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAST = 1024  # an empty file costs an inode; counted so that a million of them count


class TooDeep(Exception):
    """Directories are nested deeper than `DEEPEST`."""


def usage(top: str) -> Iterator[int]:
    """Bytes on disk beneath `top`, one number per entry, so that the caller can pause in between.

    :raises TooDeep: while iterating.
    """
    try:
        descriptor = os.open(top, _DIRECTORY)
    except OSError:
        return
    try:
        yield from _usage(descriptor, 0)
    finally:
        os.close(descriptor)


def _usage(directory: int, depth: int) -> Iterator[int]:
    if depth > DEEPEST:
        raise TooDeep
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    size = entry.stat(follow_symlinks=False).st_blocks * 512
                    inner = entry.is_dir(follow_symlinks=False)
                except OSError:
                    continue  # gone again
                yield max(size, _LEAST)
                if inner:
                    try:
                        descriptor = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                    except OSError:
                        continue
                    try:
                        yield from _usage(descriptor, depth + 1)
                    finally:
                        os.close(descriptor)
    except OSError:
        return


def deleted(pids: set[int], device: int) -> Iterator[int]:
    """Bytes of the files on this device that these processes hold open after deleting them."""
    seen = set()
    for pid in list(pids)[:_MOST_PROCESSES]:
        try:
            names = os.listdir(f"/proc/{pid}/fd")[:_MOST_DESCRIPTORS]
        except OSError:
            continue
        for name in names:
            try:
                status = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if status.st_nlink == 0 and status.st_dev == device and status.st_ino not in seen:
                seen.add(status.st_ino)
                yield status.st_blocks * 512


def remove(top: str) -> None:
    """Remove the directory `top` and all beneath it; nothing to do when it is not there.

    Directories nested deeper than `DEEPEST` are moved up to `top`, so that no depth is too deep.

    :raises OSError: something cannot be removed.
    """
    try:
        _open_up(top)
        root = os.open(top, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        mover = _Mover(root)
        while mover.moved_since_asked():
            _clear(root, mover, 0)
    finally:
        os.close(root)
    os.rmdir(top)


class _Mover:
    """Moves directories to the root of what is removed, under names that nobody has."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._count = 0
        self._more = True

    def moved_since_asked(self) -> bool:
        """Whether there may be something in the root that has not been seen; True at first."""
        more, self._more = self._more, False
        return more

    def move(self, name: bytes, directory: int) -> None:
        while True:
            self._count += 1
            target = b".moved-%d" % self._count
            try:
                os.mkdir(target, dir_fd=self._root)  # rename replaces an empty directory, and only that
            except FileExistsError:
                continue
            os.rename(name, target, src_dir_fd=directory, dst_dir_fd=self._root)
            self._more = True
            return


def _clear(directory: int, mover: _Mover, depth: int) -> None:
    """Empty a directory, but for what is moved out of it."""
    for text in os.listdir(directory):
        name = os.fsencode(text)
        try:
            os.unlink(name, dir_fd=directory)
            continue
        except (IsADirectoryError, PermissionError):
            _open_up(name, directory)
        if depth == DEEPEST:
            mover.move(name, directory)
            continue
        inner = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            _clear(inner, mover, depth + 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)


def _open_up(name: str | bytes, parent: int | None = None) -> None:
    """Give ourselves every right to this directory, link or not known: links are refused."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)
