"""``python -m tests.crash.tracer LOG PROGRAM ARGUMENTS…``: runs a program and notes what it has fsynced.

After each fsync or fdatasync that succeeded, LOG gets a line ``SIZE PATH``: so many bytes of the file were
written when the call began, and all of them are on disk now. An append-only file cut at the last such size
is what a power cut may leave; killing the program shows nothing, as the page cache outlives it.

Linux only, by ptrace(2) of our own child, which needs no privilege. The program gets SIGKILL when the
tracer ends.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from pathlib import Path

_CALLS = {"x86_64": {74, 75}, "aarch64": {82, 83}}[platform.machine()]  # fsync, fdatasync
_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_SYSGOOD, _CLONE, _EXEC, _EXITKILL = 1, 8, 16, 1 << 20
_EVENTS = 16  # bits by which waitpid's status is shifted for an event
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000
_INFO = 88  # bytes of struct ptrace_syscall_info

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _call(thread: int) -> tuple[int, int, int]:
    """Of a thread stopped at a system call: entry or exit, then number and first argument, or result."""
    info = ctypes.create_string_buffer(_INFO)
    if _libc.ptrace(_GET_SYSCALL_INFO, thread, _INFO, info) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    kind = info.raw[0]
    if kind == _ENTRY:
        call, first = struct.unpack_from("QQ", info.raw, 24)
        return kind, call, first
    (result,) = struct.unpack_from("q", info.raw, 24)
    return kind, result, 0


def trace(log: int, command: list[str]) -> int:
    """Run the command to its end; its wait status."""
    child = os.fork()
    if child == 0:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execv(command[0], command)
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _CLONE | _EXEC | _EXITKILL)
    _ptrace(_SYSCALL, child)
    begun: dict[int, bytes] = {}  # thread → the line to write if its call succeeds
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == child:
                return status
            continue
        number, event = os.WSTOPSIG(status), status >> _EVENTS
        passed_on = 0
        try:
            if number == signal.SIGTRAP | 0x80:
                _note(log, begun, child, thread)
            elif not event and number not in (signal.SIGSTOP, signal.SIGTRAP):
                passed_on = number
            _ptrace(_SYSCALL, thread, 0, passed_on)
        except ProcessLookupError:
            continue  # it was killed while it was stopped


def _note(log: int, begun: dict[int, bytes], child: int, thread: int) -> None:
    kind, value, descriptor = _call(thread)
    if kind == _ENTRY and value in _CALLS:
        place = Path(f"/proc/{child}/fd/{descriptor}")
        begun[thread] = f"{place.stat().st_size} {place.readlink()}\n".encode()
    elif kind == _EXIT and thread in begun:
        line = begun.pop(thread)
        if value == 0:
            os.write(log, line)


def main() -> None:
    """See above."""
    path, *command = sys.argv[1:]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    sys.exit(os.waitstatus_to_exitcode(trace(log, command)) % 256)


if __name__ == "__main__":
    main()
