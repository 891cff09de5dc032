"""The object store in a directory of this machine.

Written with plain system calls, not with obstore's ``LocalStore``, because three things are asked
of it that obstore 0.12 does not offer: an object is on the disk, with its directory entry, when
`put` returns (its Python interface has no fsync); a symbolic link in the tree is never followed;
and memory stays bounded while a PUT is counted against its limit.

Layout below the root: ``objects/`` holds each object in the file that its key names, readable
with any tool; ``tmp/`` holds what is being written. A file gets its name only when it is whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from posix import close as _close
from typing import Literal

from uws_server.storage.base import (
    Aside,
    Exists,
    NotStored,
    StorageUnavailable,
    Stored,
    TooLong,
    directly,
)
from uws_server.storage.keys import segments
from uws_server.storage.links import Links

# `_close` is the system's own: gevent's `os.close` keeps a directory open until its loop comes round, so that
# whoever looks at some thousand objects in a row runs out of descriptors.

CHUNK = 256 * 1024
_SYNC_EVERY = 32 * 1024**2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 50
_LEFT_BEHIND = 24 * 3600  # s


class FileStore:
    """An object store in the directory ``root``, which is made when it is not there.

    ``links`` signs for it, None in a process that hands out no links. `StorageUnavailable` when the directory
    cannot be made or written.
    """

    uploads = None

    def __init__(self, root: Path, links: Links | None, aside: Aside = directly) -> None:
        self._links = links
        self._aside = aside
        with _told(root):
            for name in ("objects", "tmp"):
                (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
                if not os.access(root / name, os.W_OK):
                    raise PermissionError(errno.EACCES, "it is not ours to write", str(root / name))
            self._objects = os.open(root / "objects", _DIRECTORY)
            self._tmp = os.open(root / "tmp", _DIRECTORY)
            self._sweep()

    def __del__(self) -> None:
        for name in ("_objects", "_tmp"):
            if hasattr(self, name):
                _close(getattr(self, name))

    def put(
        self, key: str, content: bytes | Iterable[bytes], limit: int | None = None, *, create: bool = False
    ) -> Stored:
        """See `ObjectStore.put`."""
        path = segments(key)
        temporary = secrets.token_hex(16)
        with _told(key):
            file = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._tmp
            )
        try:
            try:
                self._write(file, key, content, limit)
                with _told(key):
                    self._name(temporary, path, create=create)
                    return _stored(key, os.fstat(file))
            finally:
                _close(file)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._tmp)
            raise

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ObjectStore.read`."""
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"no range of bytes: {start} to {end}")
        file = self._open(key)
        return _Chunks(file, start, os.fstat(file).st_size if end is None else end)

    def head(self, key: str) -> Stored:
        """See `ObjectStore.head`."""
        file = self._open(key)
        try:
            return _stored(key, os.fstat(file))
        finally:
            _close(file)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `ObjectStore.list`."""
        path = segments(prefix) if prefix else ()
        try:
            with _told(prefix):
                top = self._directory(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from _walk(top, "".join(f"{part}/" for part in path))

    def delete(self, prefix: str) -> None:
        """See `ObjectStore.delete`."""
        *above, name = segments(prefix)
        with _told(prefix), suppress(FileNotFoundError, NotADirectoryError):
            parent = self._directory(tuple(above))
            try:
                _remove(parent, name)
                self._aside(lambda: os.fsync(parent))
            finally:
                _close(parent)
            self._prune(tuple(above))

    def sign(
        self,
        method: Literal["GET", "PUT"],
        key: str,
        seconds: int,
        limit: int | None = None,
        *,
        public: bool = False,
        media_type: str = "",
    ) -> str:
        """See `ObjectStore.sign`; our own route is the same for all."""
        segments(key)
        if self._links is None:
            raise TypeError("this process was given nothing to sign with")
        return self._links.sign(method, key, seconds, limit)

    def _sweep(self) -> None:
        """Remove what killed processes left half written; other processes may be writing now."""
        with os.scandir(self._tmp) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < time.time() - _LEFT_BEHIND:
                        os.unlink(entry.name, dir_fd=self._tmp)

    def _write(self, file: int, key: str, content: bytes | Iterable[bytes], limit: int | None) -> None:
        size = unsynced = 0
        for chunk in _pieces(content) if isinstance(content, bytes) else content:
            size += len(chunk)
            if limit is not None and size > limit:
                raise TooLong(f"the content of {key} is longer than {limit} bytes")
            with _told(key):
                _write_all(file, chunk)
                unsynced += len(chunk)
                if unsynced >= _SYNC_EVERY:  # little by little, so that nobody waits long behind us
                    self._aside(lambda: os.fdatasync(file))
                    unsynced = 0
        with _told(key):
            self._aside(lambda: os.fsync(file))

    def _name(self, temporary: str, path: tuple[str, ...], *, create: bool) -> None:
        """Give a whole file its key, durably."""
        for _ in range(_TRIES):
            try:
                with ExitStack() as descriptors:
                    changed = self._make(path[:-1], descriptors)
                    if create:
                        self._create(temporary, path, changed[-1])
                    else:
                        os.rename(temporary, path[-1], src_dir_fd=self._tmp, dst_dir_fd=changed[-1])
                    self._aside(lambda: _sync_all(changed))  # noqa: B023 - run before the next turn
                    return
            except FileNotFoundError:  # a delete took the directory away between making and using it
                continue
            except (NotADirectoryError, IsADirectoryError) as error:
                raise ValueError(
                    f"the key {'/'.join(path)} is the beginning of another, or another of it"
                ) from error
        raise StorageUnavailable(f"{'/'.join(path)}: its directory is deleted again and again")

    def _create(self, temporary: str, path: tuple[str, ...], directory: int) -> None:
        """Give it a second name, which is refused where there is one, and take away the first."""
        try:
            os.link(temporary, path[-1], src_dir_fd=self._tmp, dst_dir_fd=directory)
        except FileExistsError as error:
            there = os.stat(path[-1], dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode):
                raise IsADirectoryError from error
            raise Exists("/".join(path)) from None
        os.unlink(temporary, dir_fd=self._tmp)

    def _make(self, path: tuple[str, ...], descriptors: ExitStack) -> tuple[int, ...]:
        """Make what is missing of a directory; descriptors of those that got a new entry, and of itself."""
        directory = os.dup(self._objects)
        descriptors.callback(_close, directory)
        changed = []
        for name in path:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
                changed.append(directory)
            directory = os.open(name, _DIRECTORY, dir_fd=directory)
            descriptors.callback(_close, directory)
        return (*changed, directory)

    def _directory(self, path: tuple[str, ...]) -> int:
        """A descriptor of the directory, reached without following a link."""
        directory = os.dup(self._objects)
        for name in path:
            try:
                below = os.open(name, _DIRECTORY, dir_fd=directory)
            finally:
                _close(directory)
            directory = below
        return directory

    def _open(self, key: str) -> int:
        """A descriptor of the object's file."""
        *above, name = segments(key)
        with _told(key):
            try:
                directory = self._directory(tuple(above))
                try:
                    file = os.open(
                        name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
                    )
                finally:
                    _close(directory)
            except (FileNotFoundError, NotADirectoryError):
                raise NotStored(key) from None
            except OSError as error:
                if error.errno == errno.ELOOP:  # a link, not ours
                    raise NotStored(key) from None
                raise
            if not stat.S_ISREG(os.fstat(file).st_mode):
                _close(file)
                raise NotStored(key)
            return file

    def _prune(self, path: tuple[str, ...]) -> None:
        """Remove the directories that a delete left empty, upwards as far as they are."""
        while path:
            *above, name = path
            parent = self._directory(tuple(above))
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError:  # not empty, or gone already
                return
            finally:
                _close(parent)
            path = tuple(above)


class _Chunks:
    """The bytes of an open file from ``at`` up to ``end``; owns the descriptor."""

    def __init__(self, file: int, at: int, end: int) -> None:
        self._file = file
        self._at = at
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._file < 0:
            raise StopIteration
        chunk = os.pread(self._file, max(0, min(CHUNK, self._end - self._at)), self._at)
        if not chunk:
            self.close()
            raise StopIteration
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            _close(self._file)
            self._file = -1

    __del__ = close


@contextmanager
def _told(what: object) -> Iterator[None]:
    """Turn a failing disk into `StorageUnavailable`; what a caller can act on goes through."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        raise StorageUnavailable(f"{what}: {error.strerror or error}") from error


def _stored(key: str, status: os.stat_result) -> Stored:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return Stored(key, status.st_size, status.st_mtime_ns // 1_000_000, etag)


def _pieces(content: bytes) -> Iterator[memoryview]:
    view = memoryview(content)
    return (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))


def _write_all(file: int, chunk: bytes | memoryview) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(file, left) :]


def _sync_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.fsync(descriptor)


def _entries(directory: int) -> list[tuple[str, os.stat_result]]:
    """Files and directories in the order of the keys: a directory sorts as its name with ``/``."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                    found.append((entry.name, status))
    return sorted(found, key=lambda item: os.fsencode(item[0] + "/" * stat.S_ISDIR(item[1].st_mode)))


def _walk(top: int, prefix: str) -> Iterator[Stored]:
    """Every object below an open directory, which is closed at the end."""
    try:
        for name, status in _entries(top):
            if stat.S_ISREG(status.st_mode):
                yield _stored(prefix + name, status)
                continue
            with suppress(FileNotFoundError, NotADirectoryError):
                yield from _walk(os.open(name, _DIRECTORY, dir_fd=top), f"{prefix}{name}/")
    finally:
        _close(top)


def _remove(parent: int, name: str) -> None:
    """Remove a file, or a directory with everything below it. A link is removed, never followed."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # POSIX lets unlink answer EPERM for a directory
        pass
    for left in reversed(range(_TRIES)):
        try:
            _empty(os.open(name, _DIRECTORY, dir_fd=parent))
            os.rmdir(name, dir_fd=parent)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:  # not empty: something was put meanwhile
                raise


def _empty(directory: int) -> None:
    """Remove everything below an open directory, which is closed at the end."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            _remove(directory, name)
    finally:
        _close(directory)
