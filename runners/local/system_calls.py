"""The system calls that user code may not make: a filter for seccomp, as containers have one.

Kept from it are the parts of the kernel that a job has no use for and that attacks on the kernel
begin with: new namespaces, mounts, modules, keys, tracing by BPF and performance counters, io_uring.
What the filter does not name is allowed.
"""

from __future__ import annotations

import os
import struct

_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | 1  # EPERM
_UNKNOWN = 0x00050000 | 38  # ENOSYS: the C library falls back to what can be looked at
_KILL = 0x80000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data, little-endian
_NEW_NAMESPACES = 0x7E020000  # the flags CLONE_NEW* that clone takes
_X32 = 0x40000000  # numbers from here on are the x32 ABI's, which nothing needs

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, audit architecture
DENIED = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
}
CLONE = (56, 220)  # denied with flags for new namespaces
CLONE3 = (435, 435)  # its flags are in memory, where a filter cannot look


def can_filter() -> bool:
    """Whether this kernel takes a filter, and we have one for its machine."""
    return os.uname().machine in MACHINES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def program(machine: str) -> bytes:
    """The filter for `machine`, as an array of struct sock_filter.

    :raises KeyError: we have none for it.
    """
    column, architecture = MACHINES[machine]
    denied = [numbers[column] for numbers in DENIED.values()]
    clone, clone3 = CLONE[column], CLONE3[column]
    flags = 6 + len(denied)  # where the look at the flags of clone begins; the four returns follow it
    allow, deny, unknown, kill = range(flags + 2, flags + 6)
    lines = [
        (_LOAD, _ARCHITECTURE, None, None),
        (_EQUAL, architecture, 2, kill),
        (_LOAD, _NUMBER, None, None),
        (_AT_LEAST, _X32, deny, 4),
        *((_EQUAL, number, deny, 5 + at) for at, number in enumerate(denied)),
        (_EQUAL, clone3, unknown, flags - 1),
        (_EQUAL, clone, flags, allow),
        (_LOAD, _FIRST_ARGUMENT, None, None),
        (_ANY_BIT, _NEW_NAMESPACES, deny, allow),
        *((_RETURN, value, None, None) for value in (_ALLOW, _DENY, _UNKNOWN, _KILL)),
    ]
    return b"".join(
        struct.pack("=HBBI", code, *(0 if to is None else to - at - 1 for to in (yes, no)), value)
        for at, (code, value, yes, no) in enumerate(lines)
    )
