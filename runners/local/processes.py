"""Which processes live, told from `/proc` without ever trusting a bare pid.

A pid is used again after its process has gone, so a process is named by pid and start time. A
zombie counts as ended: it runs no code any more, and some machines' process 1 reaps none.
"""

from __future__ import annotations

import os
import signal

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """One line of the process table, as `/proc/PID/stat` told it."""

    __slots__ = ("group", "parent", "pid", "rss", "start", "state", "threads")

    def __init__(self, pid: int, text: str) -> None:
        fields = text[text.rindex(")") + 2 :].split()
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.threads = int(fields[17])
        self.start = int(fields[19])  # clock ticks since boot
        self.rss = int(fields[21]) * _PAGE

    @property
    def ended(self) -> bool:
        return self.state in "ZX"


def boot_id() -> str:
    """The kernel's name for this boot: no process of another one is left."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def look_up(pid: int) -> Process | None:
    """The living process of this pid, None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            process = Process(pid, file.read())
    except (OSError, ValueError, IndexError):
        return None
    return None if process.ended else process


def identify(pid: int) -> list[int]:
    """``[pid, start time]`` of a living process; start time 0 when it has ended."""
    process = look_up(pid)
    return [pid, process.start if process else 0]


def lives(identity: list[int]) -> bool:
    """Whether the process that `identify` named is still there."""
    process = look_up(identity[0])
    return process is not None and process.start == identity[1]


def kill(identity: list[int]) -> None:
    """SIGKILL exactly the process that `identify` named, or nothing."""
    try:
        descriptor = os.pidfd_open(identity[0])
    except OSError:
        return
    try:
        if lives(identity):  # asked after the open: the descriptor cannot mean a later process
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def table() -> dict[int, Process]:
    """Every process that this one can see, zombies too."""
    processes = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    processes[int(name)] = Process(int(name), file.read())
            except (OSError, ValueError, IndexError):
                continue  # ended while we were reading
    return processes


def descendants(root: int, *, without: int | None = None) -> list[Process]:
    """The processes beneath `root`, itself not among them; nothing at or beneath `without`."""
    processes = table()
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            if process.pid != without:
                found.append(process)
                waiting.append(process.pid)
    return found


def marked(mark: bytes) -> list[list[int]]:
    """Living processes whose first environment holds the entry `mark`, except this one.

    A hint only: a process can overwrite its environment.
    """
    return _with("environ", mark)


def commanded(word: bytes) -> list[list[int]]:
    """Living processes with `word` in their command line, except this one. A hint, as `marked` is."""
    return _with("cmdline", word)


def _with(file_name: str, word: bytes) -> list[list[int]]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/{file_name}", "rb") as file:
                words = file.read(1 << 20).split(b"\0")
        except OSError:
            continue
        identity = identify(int(name))
        if word in words and identity[1]:
            found.append(identity)
    return found


def memory_of(processes: list[Process], limit: int) -> int:
    """Bytes these processes hold together; exact (shared pages once) only near or over `limit`."""
    resident = sum(process.rss for process in processes if not process.ended)
    if resident <= limit:
        return resident
    return sum(_share(process) for process in processes if not process.ended)


def _share(process: Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0 if look_up(process.pid) is None else process.rss


def threads_of(uid: int) -> int:
    """How many threads this user has: what RLIMIT_NPROC counts."""
    count = 0
    for process in table().values():
        try:
            if os.stat(f"/proc/{process.pid}").st_uid == uid:
                count += process.threads
        except OSError:
            continue
    return count
