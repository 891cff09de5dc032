"""The files by which a local attempt is known, and how they are written, locked and told of.

Shared by the runner, which comes and goes, and the supervisor, which stays. Standard library
only: the supervisor's start-up time counts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPEC = "spec.json"
AGENT = "agent.json"
PLAN = "plan.json"  # what the supervisor does, decided by the runner: paths, argv, limits
LOCK = "lock"
LAUNCHED = "launched"  # a supervisor was spawned
STARTED = "started"  # the user's code is about to run, or ran: never again
STOP = "stop"  # somebody wants it to end
STATE = "state.json"
BALLAST = "ballast"  # room on the disk, given back when the attempt's end is to be written down
WAKE = "wake"  # the supervisor's datagram socket
WATCHERS = "watchers"  # directory of the sockets of those who wait for news

FULL = (errno.ENOSPC, errno.EDQUOT)
LAST_ROOM = 64 * 1024  # bytes of the ballast that are kept for the last word

_BALLAST = 1024**2  # bytes; what the agent writes down of a thousand results is half of it
_SMALL = 1024**2
_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux


def lock(descriptor: int) -> bool:
    """Take the lock on an open file. It belongs to the open file: inherited, it stays held.

    False when somebody else holds it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(path: str) -> bool:
    """Does somebody hold the lock? Asked without taking it, so that nobody is kept from it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _LOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    finally:
        os.close(descriptor)
    return int(_LOCK.unpack(answer)[0]) != fcntl.F_UNLCK


def write(directory: str, name: str, text: str, *, durable: bool, mode: int = 0o600) -> None:
    """Replace a file whole; with `durable` it is there after a power cut too."""
    temporary = f"{directory}/.{name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        data = memoryview(text.encode())
        while data:
            data = data[os.write(descriptor, data) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, f"{directory}/{name}")
    if durable:
        sync(directory)


def reserve(directory: str) -> None:
    """Take the ballast, which no job can write over.

    :raises OSError: ENOSPC or EDQUOT: there is no room for it.
    """
    descriptor = os.open(f"{directory}/{BALLAST}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _BALLAST)
    except OSError as error:
        if error.errno in FULL:
            raise
        # A file system that cannot reserve: then a full disk is seen where it is written to.
    finally:
        os.close(descriptor)


def give_back(directory: str, keep: int = 0) -> None:
    """Let go of the ballast, but for so many bytes."""
    try:
        if keep:
            os.truncate(f"{directory}/{BALLAST}", keep)
        else:
            os.unlink(f"{directory}/{BALLAST}")
    except FileNotFoundError:
        pass


def is_full(directory: str) -> bool:
    """Whether the disk, or our share of it, has no room for another ballast. Takes or leaves none."""
    try:
        reserve(directory)
    except OSError as error:
        return error.errno in FULL
    finally:
        give_back(directory)
    return False


def sync(directory: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(directory: str, name: str) -> dict[str, Any] | None:
    """One of our JSON objects; None when it is not there, or was torn by a power cut.

    What must outlast one is written durably, and that it was begun is told by its name.
    """
    try:
        with open(f"{directory}/{name}", encoding="utf-8") as file:
            data = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_hostile(path: str, limit: int = _SMALL, *, tail: bool = False) -> bytes:
    """At most `limit` bytes of a file that user code may have made; b'' unless it is a plain file.

    Follows no link at its end nor in the place of its directory, never blocks on a FIFO. `tail` takes
    the end of it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(os.path.dirname(path), flags | os.O_DIRECTORY)
        try:
            name = os.path.basename(path)
            descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o100000:
            return b""
        return os.pread(descriptor, limit, max(0, status.st_size - limit) if tail else 0)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def read_hint(path: str) -> object:
    """The JSON value of a small hostile file, None when it is none."""
    try:
        value: object = json.loads(read_hostile(path))
    except (ValueError, RecursionError):
        return None
    return value


def bind_socket(directory: str, name: str) -> socket.socket:
    """A datagram socket in this directory, however long the directory's path is."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(name, dir_fd=descriptor)
        except FileNotFoundError:
            pass
        bell.bind(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        bell.close()
        raise
    finally:
        os.close(descriptor)
    return bell


def ring(directory: str, name: str | None = None) -> None:
    """Wake whoever listens at this socket of the directory, or at each when no name is given.

    A socket nobody listens at any more is removed, unless it was asked for by name.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)
    try:
        for each in os.listdir(descriptor) if name is None else [name]:
            try:
                bell.sendto(b".", f"/proc/self/fd/{descriptor}/{each}")
            except ConnectionRefusedError:
                if name is None:
                    os.unlink(each, dir_fd=descriptor)
            except OSError:
                continue  # full: it will wake anyway; gone: nobody waits
    except OSError:
        pass
    finally:
        bell.close()
        os.close(descriptor)
