"""Spawn a supervisor so that it outlives us, and hand it the attempt's lock."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path

from runners.local import view

_BOOT = (  # -I -S: nothing of the user's environment, and no time for site-packages
    "-I",
    "-S",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from runners.local.supervisor import main; main()",
)
_NEEDED_BY_PYTHON = ("PATH", "LANG", "LD_LIBRARY_PATH")
_LOCK_DESCRIPTOR = 3


def spawn(directory: Path, lock: int) -> int:
    """Start the supervisor of the attempt prepared in `directory`; its pid.

    :param lock: the descriptor that holds the attempt's lock.
    """
    held = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, _LOCK_DESCRIPTOR + 1)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *_BOOT, view.package_root(), str(directory), str(_LOCK_DESCRIPTOR)],
            {name: os.environ[name] for name in _NEEDED_BY_PYTHON if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (
                    os.POSIX_SPAWN_OPEN,
                    2,
                    str(directory / "supervisor.log"),
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                    0o600,
                ),
                (os.POSIX_SPAWN_DUP2, held, _LOCK_DESCRIPTOR),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT),
        )
    finally:
        os.close(held)
