"""The control groups of a cluster: one branch per node, in every hierarchy.

A branch is made before its kubelet starts and removed when all in it has ended. Works with version 1 (a
hierarchy per controller) and version 2 (one for all).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


def _hierarchies() -> list[Path]:
    if (TOP / "cgroup.controllers").exists():
        return [TOP]
    return sorted({path.resolve() for path in TOP.iterdir() if (path / "cgroup.procs").exists()})


def make(name: str) -> None:
    """Make the branch that a kubelet gets as its root."""
    for hierarchy in _hierarchies():
        branch = hierarchy / name
        branch.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and admits no process.
            if hierarchy != TOP and (branch / setting).exists():
                (branch / setting).write_text((hierarchy / setting).read_text())
        if hierarchy == TOP:
            controllers = (TOP / "cgroup.controllers").read_text().split()
            for group in (TOP, branch):
                for controller in controllers:
                    with suppress(OSError):
                        (group / "cgroup.subtree_control").write_text(f"+{controller}")


def branches(pattern: str) -> Iterator[Path]:
    """Every branch with such a name, in every hierarchy."""
    for hierarchy in _hierarchies():
        yield from hierarchy.glob(pattern)


def remove(pattern: str) -> None:
    """Remove the branches with such a name; raises `OSError` while something runs in them."""
    for branch in list(branches(pattern)):
        groups = [branch, *(path for path in branch.rglob("*") if path.is_dir())]
        for group in sorted(groups, key=lambda path: -len(path.parts)):
            with suppress(FileNotFoundError):
                group.rmdir()
