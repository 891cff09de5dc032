"""One control group per attempt: limits on memory, processes and CPU that no user code escapes.

Works with cgroup v1 (one directory per controller) and v2 (one for all). Only root's directories
are used; a user's delegated groups are not.
"""

from __future__ import annotations

import os
import time

ROOT = "/sys/fs/cgroup"
CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD = 100_000  # microseconds in which the CPU quota counts
_LEAST_QUOTA = 1000  # the kernel takes no less


def hierarchies(root: str = ROOT) -> dict[str, str]:
    """Controller -> directory where groups for it are made, for those this machine has."""
    try:
        with open(f"{root}/cgroup.controllers", encoding="ascii") as file:
            present = file.read().split()
        return {controller: root for controller in CONTROLLERS if controller in present}
    except OSError:
        pass
    return {
        controller: f"{root}/{controller}"
        for controller in CONTROLLERS
        if os.path.exists(f"{root}/{controller}/cgroup.procs")
    }


def is_unified(directory: str) -> bool:
    """Whether this is a directory of cgroup v2."""
    return os.path.exists(f"{directory}/cgroup.controllers")


class Cgroup:
    """The group `name` beneath `parent` in every hierarchy given."""

    def __init__(self, parent: str, name: str, roots: dict[str, str]) -> None:
        self._roots = roots
        self.directories = {key: f"{root}/{parent}/{name}" for key, root in roots.items()}

    def create(self, memory: int, processes: int, cpu_milli: int) -> None:
        """Make the group, or set the limits of the one that is there.

        :raises OSError: this machine does not let us.
        """
        for controller in self.directories:
            for attempt in range(5):  # another attempt's end may remove the empty parent meanwhile
                try:
                    self._create(controller, memory, processes, cpu_milli)
                    break
                except FileNotFoundError:
                    if attempt == 4:
                        raise

    def _create(self, controller: str, memory: int, processes: int, cpu_milli: int) -> None:
        root, directory = self._roots[controller], self.directories[controller]
        unified = is_unified(root)
        parent = os.path.dirname(directory)
        os.makedirs(parent, exist_ok=True)
        if unified:
            for level in (root, parent):
                _write(f"{level}/cgroup.subtree_control", f"+{controller}")
        os.makedirs(directory, exist_ok=True)
        quota = max(_LEAST_QUOTA, cpu_milli * _PERIOD // 1000)
        if controller == "memory" and unified:
            _write(f"{directory}/memory.max", str(memory))
            _write_if_there(f"{directory}/memory.swap.max", "0")
        elif controller == "memory":
            _write(f"{directory}/memory.limit_in_bytes", str(memory))
            _write_if_there(f"{directory}/memory.memsw.limit_in_bytes", str(memory))
        elif controller == "pids":
            _write(f"{directory}/pids.max", str(processes))
        elif unified:
            _write(f"{directory}/cpu.max", f"{quota} {_PERIOD}")
        else:
            _write(f"{directory}/cpu.cfs_period_us", str(_PERIOD))
            _write(f"{directory}/cpu.cfs_quota_us", str(quota))

    def entries(self) -> list[int]:
        """Descriptors for a process to enter by writing ``0``, which works after a new root too."""
        return [
            os.open(f"{directory}/cgroup.procs", os.O_WRONLY)
            for directory in dict.fromkeys(self.directories.values())
        ]

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process of this group for its memory limit."""
        directory = self.directories.get("memory")
        if directory is None:
            return False
        for name in ("memory.events", "memory.oom_control"):
            try:
                with open(f"{directory}/{name}", encoding="ascii") as file:
                    return any(
                        words[0] == "oom_kill" and int(words[1]) > 0
                        for words in (line.split() for line in file)
                        if len(words) == 2
                    )
            except OSError:
                continue
        return False

    def members(self) -> set[int]:
        """Pids of the processes in the group that have not ended."""
        found: set[int] = set()
        for directory in self.directories.values():
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    found.update(int(line) for line in file)
            except OSError:
                continue
        return found

    def remove(self, seconds: float = 1.0) -> bool:
        """Remove the empty group, and the parent with the last one. False when it is not empty."""
        deadline = time.monotonic() + seconds
        for directory in self.directories.values():
            while True:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.005)  # the kernel lets go of ended processes a moment later
                    continue
                break
            remove_empty(os.path.dirname(directory))
        return True


def leave_own_group(parent: str, root: str = ROOT) -> str | None:
    """Move this process out of its service's group, lest ending the service ends it too.

    Returns the group it is in now, None when the machine does not let us.
    """
    for hierarchy in (root, f"{root}/unified", f"{root}/systemd"):
        if os.path.exists(f"{hierarchy}/cgroup.procs"):
            group = f"{hierarchy}/{parent}/supervisors"
            try:
                os.makedirs(group, exist_ok=True)
                _write(f"{group}/cgroup.procs", "0")
            except OSError:
                continue
            return group
    return None


def sweep(parent: str, root: str = ROOT) -> None:
    """Remove what `leave_own_group` made, when nothing is in it."""
    for hierarchy in (root, f"{root}/unified", f"{root}/systemd"):
        remove_empty(f"{hierarchy}/{parent}/supervisors")
        remove_empty(f"{hierarchy}/{parent}")


def remove_empty(directory: str) -> None:
    """Remove this group if nothing is in it."""
    try:
        os.rmdir(directory)
    except OSError:
        pass


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_if_there(path: str, text: str) -> None:
    if os.path.exists(path):
        _write(path, text)
