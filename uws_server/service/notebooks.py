"""Uploaded notebooks, read so that nobody else has to wait for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable

from job_templates.notebook_excerpt import REFUSED

_SMALL = 256 * 1024
"""Bytes of a notebook that is read where we stand: at most 30 ms, whatever is in it."""

_SECONDS = 60.0
_AT_ONCE = threading.BoundedSemaphore(2)


def readable(content: Iterable[bytes]) -> bytes:
    """The notebook as it is, or of a large one what its parameters are read from.

    :raises ValueError: a large one is no notebook; the message is one sentence.
    """
    pieces = iter(content)
    small = bytearray()
    for piece in pieces:
        small += piece
        if len(small) > _SMALL:
            with _AT_ONCE:
                return _excerpt(bytes(small), pieces)
    return bytes(small)


def _excerpt(first: bytes, rest: Iterable[bytes]) -> bytes:
    command = [sys.executable, "-P", "-m", "job_templates.notebook_excerpt"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        late = threading.Timer(_SECONDS, child.kill)
        late.start()
        try:
            said = _converse(child, first, rest)
        except BaseException:
            child.kill()
            raise
        finally:
            late.cancel()
        status = child.wait()
    if status == REFUSED:
        raise ValueError(said.decode())
    if status != 0:
        raise ValueError("the notebook takes too long to be read, or too much memory")
    return said


def _converse(child: subprocess.Popen[bytes], first: bytes, rest: Iterable[bytes]) -> bytes:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the pipes were asked for")
    try:
        child.stdin.write(first)
        for piece in rest:
            child.stdin.write(piece)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it was ended; its status says so
    return child.stdout.read()
