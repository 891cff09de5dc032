"""The attempt's directory as the agent sees it: what it reads there, and how it writes.

User code owns ``work/`` while it runs and may put anything anywhere in it. Whatever is read from
there is opened step by step without following a link, must be a regular file, and is a hint.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from uws_server.domain.runspec import RunSpec

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for somebody to write into it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRegular(OSError):
    """What was opened is no regular file, or has other names besides this one."""


@dataclass(frozen=True, slots=True)
class Access:
    """``agent.json``: the way to the agent's door, and what the site allows the agent.

    Durations in seconds. ``file:`` sources are taken from below the directories ``file_inputs`` only, and
    never from below ``file_hidden``. ``deny_networks`` (CIDR) are refused as sources besides the link-local
    and metadata addresses, which always are. ``tries`` bounds the failures in a row of one source;
    ``patience_seconds`` how long the door may be away, as when the web restarts. ``storing_seconds`` is what
    an agent that is told to end has left where the user's code had ended by itself; 0: as after a stop.
    """

    url: str
    token: str
    file_inputs: tuple[str, ...] = ()
    file_hidden: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()
    stage_in_seconds: float = 4 * 3600
    stall_seconds: float = 30
    tries: int = 6
    patience_seconds: float = 600
    storing_seconds: float = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> Access:
        """Read ``agent.json``; keys that this version does not know are for another one."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


class Exit(NamedTuple):
    """``logs/exit``: how the user's code ended, in the words of who held it.

    ``instant`` in milliseconds since 1970 UTC; ``word`` is `ended`, `stopped` or `timed-out` in a pod, and
    empty elsewhere. A pod's user code can write there too: what makes no sense is None.
    """

    code: int | None
    instant: int | None
    word: str


class AttemptDir:
    """One attempt's directory."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.spec = RunSpec.from_json((top / "spec.json").read_bytes())
        self.access = Access.from_json((top / "agent.json").read_bytes())
        self.inputs = top / "work" / "inputs"

    def exit(self) -> Exit | None:
        """How the user's code and its tree ended; None before that, or when nobody could write it down."""
        text = self.hostile(("logs", "exit"), 64)
        if not text:
            return None
        code, instant, word, *_ = (*text.decode(errors="replace").split(), "", "", "")
        return Exit(_number(code), _number(instant), word)

    def started(self) -> int | None:
        """When the user's code started, where only the wrapper knows: milliseconds since 1970 UTC."""
        return _number(self.hostile(("logs", "started"), 64).decode(errors="replace").strip())

    def read_json(self, name: str) -> Any:
        """What a file of our own directly in the directory holds; None when it is not there."""
        try:
            return json.loads((self.top / name).read_bytes())
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of our own in one step."""
        replace_text(self.top / name, json.dumps(value, ensure_ascii=True))

    def directory(self, *path: str) -> int:
        """A descriptor of a directory below the attempt's, reached without following a link."""
        descriptor = os.open(self.top, _DIRECTORY)
        for name in path:
            descriptor = step_into(descriptor, name)
        return descriptor

    def hint(self, name: str, most: int) -> bytes:
        """The last ``most`` bytes of the user's file ``work/uws/{name}``; empty when none can be read."""
        return self.hostile(("work", "uws", name), most)

    def hostile(self, path: tuple[str, ...], most: int) -> bytes:
        """The last ``most`` bytes of a file that user code may have made; empty when none can be read."""
        try:
            file = self.open_hostile(path)
            try:
                return os.pread(file, most, max(0, os.fstat(file).st_size - most))
            finally:
                os.close(file)
        except OSError:
            return b""

    def open_hostile(self, path: tuple[str, ...]) -> int:
        """A descriptor of a file that user code may have made.

        :raises OSError: it is not there, or is no regular file.
        """
        directory = self.directory(*path[:-1])
        try:
            return open_regular(directory, path[-1])
        finally:
            os.close(directory)


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else None


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step: who reads it sees all of it or nothing."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def step_into(directory: int, name: str) -> int:
    """Exchange a directory's descriptor for that of one in it; the first is closed either way."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    finally:
        os.close(directory)


def open_regular(directory: int, name: str) -> int:
    """A descriptor of the regular file ``name`` that has no other name.

    :raises NotRegular: it is a link of either kind, a directory, FIFO, socket or device.
    :raises OSError: it is not there, or may not be read.
    """
    # Looked at before, because opening a device can do something; and again after, as it may be exchanged.
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise NotRegular(errno.EINVAL, "it is not a regular file")
    file = os.open(name, _FILE, dir_fd=directory)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return file
    os.close(file)
    raise NotRegular(errno.EMLINK, "it is not a regular file with one name only")
