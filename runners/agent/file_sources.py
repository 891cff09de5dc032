"""Inputs from files of this machine, where the site permits them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runners.agent.connections import CHUNK
from runners.agent.download import Never


def file_chunks(source: str, permitted: Sequence[str], hidden: Sequence[str]) -> Iterator[bytes]:
    """A regular file from where the site permits it; never of an attempt, for its tokens.

    :raises Never: it is not to be had.
    """
    parts = urlsplit(source)
    if parts.netloc not in {"", "localhost"} or "\0" in unquote(parts.path):
        raise Never("that is no file of this machine")

    def check(path: str) -> None:
        if not _beneath(path, permitted) or _beneath(path, hidden):
            raise Never(f"this site takes files from {', '.join(permitted)} only")

    path = os.path.realpath(unquote(parts.path))
    check(path)  # before it is opened: opening a device can do something
    try:
        if not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
            raise Never("it is no regular file")
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Never(str(error.strerror)) from error
    try:
        check(os.readlink(f"/proc/self/fd/{file}"))  # somebody may have put a link into its path meanwhile
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Never("it is no regular file")
        while chunk := os.read(file, CHUNK):
            yield chunk
    finally:
        os.close(file)


def _beneath(path: str, directories: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(os.path.realpath(directory)) for directory in directories)
