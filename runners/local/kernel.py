"""The calls of the Linux kernel that Python has no function for, by ctypes.

Standard library, few imports: the supervisor's start-up time counts.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
_PR_SET_SECCOMP, _FILTER = 22, 2


def check(result: int, what: str) -> None:
    """:raises OSError: the C function failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones; of pids, the next child does."""
    check(_libc.unshare(flags), "unshare")


def enter_namespace(descriptor: int, flag: int) -> None:
    """Go, or for pids let the next child go, to the namespace that was opened."""
    check(_libc.setns(descriptor, flag), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system, or change a mount, as the system call of this name does."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    check(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show `source`, not what is mounted beneath it, at `target`, without devices and set-uid."""
    mount(source, target, None, MS_BIND)
    flags = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    mount(None, target, None, flags)


def swap_root() -> None:
    """Make the working directory the root, and let go of the old one.

    :raises OSError: EINVAL: this process lives in a chroot itself.
    """
    check(_libc.pivot_root(b".", b"."), "pivot_root")
    check(_libc.umount2(b".", _MNT_DETACH), "umount of the old root")


def prctl(option: int, value: int) -> int:
    """Set one attribute of this process; -1 on failure."""
    return int(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def filter_system_calls(program: bytes) -> None:
    """Have the kernel ask this filter before each system call of this process and of its children.

    :param program: an array of struct sock_filter; `no_new_privs` must be set.
    """
    lines = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.cast(lines, ctypes.c_void_p))
    result = _libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(header), 0, 0)
    check(result, "seccomp filter")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))  # struct sock_fprog


def give_up_capabilities() -> None:
    """Empty this process's own sets of capabilities."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
