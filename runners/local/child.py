"""What a forked child does to itself before it becomes the user's program, or the agent's.

One thread forks, so that a child may go on in Python until it calls exec.
"""

from __future__ import annotations

import os
import resource
import signal

from runners.local import kernel, system_calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LAST_CAPABILITY = 63  # the kernel knows fewer, and says so
SETUP_FAILED = 125  # exit code; with a `Tree.failure`: the user's program was never reached


def die_with_parent(parent: int | None) -> None:
    """SIGKILL for this process when the one that forked it ends, however it ends.

    :param parent: its pid, for it may have ended before this call; None where it cannot be seen.
    """
    kernel.check(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL), "parent death signal")
    if parent is not None and os.getppid() != parent:
        os._exit(SETUP_FAILED)


def drop_privileges(uid: int | None) -> None:
    """Give up every capability for good, and become this user, and group, when one is given."""
    for capability in range(_LAST_CAPABILITY + 1):
        if kernel.prctl(kernel.PR_CAPBSET_DROP, capability) != 0:
            break  # past the last one, or we have none to begin with
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kernel.give_up_capabilities()
    kernel.check(kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


def filter_system_calls() -> None:
    """Keep this process from the system calls that user code may not make."""
    kernel.filter_system_calls(system_calls.program(os.uname().machine))


def apply_rlimits(limits: dict[str, int]) -> None:
    """Set soft and hard limits by name (``fsize``, ``data``, ``nproc``); never core files.

    And let the kernel choose this process when memory is short: the supervisor is better kept.
    """
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(number)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (limit, limit))


def run_program(argv: list[str], environment: dict[str, str], streams: tuple[int, int, int]) -> NoReturn:
    """Become the user's program, with the signals and descriptors of a fresh process."""
    for target, source in enumerate(streams):
        os.dup2(source, target, inheritable=True)  # all others close by themselves on exec
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # Python ignores some, and ignoring is inherited
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvpe(argv[0], argv, environment)


def enter_groups(groups: list[int]) -> None:
    """Enter the control groups that these descriptors belong to."""
    for group in groups:
        os.write(group, b"0")


def close_all_but(keep: int) -> None:
    """Close every descriptor but this one."""
    os.closerange(0, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
