"""The view of the file system that a job has with `runners.local.namespaces`, put together by mounts."""

from __future__ import annotations

import errno
import os

from runners.local.kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    bind,
    mount,
    swap_root,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEVICES = ("null", "zero", "full", "random", "urandom")


def build_view(plan: dict[str, Any]) -> None:
    """Replace this process's file system, in a mount namespace of its own, by the attempt's view of it."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    root = plan["root"]
    os.makedirs(root, exist_ok=True)
    scratch = f"mode=1777,size={plan['scratch']}"
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m")
    for name in ("proc", "tmp", "dev"):
        os.mkdir(f"{root}/{name}")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, scratch)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _build_dev(f"{root}/dev", scratch)
    for action, path, *rest in plan["view"]:
        target = root + path
        if action == "symlink":
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(rest[0], target)
        elif action == "bind":
            _make_place(path, target)
            bind(path, target, read_only=True)
        elif action == "empty":
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
        elif action == "null":
            bind("/dev/null", target, read_only=True)
    work = plan["work"]
    os.makedirs(root + work, exist_ok=True)
    bind(work, root + work, read_only=False)
    bind(f"{work}/inputs", f"{root}{work}/inputs", read_only=True)
    os.chdir(root)
    try:
        swap_root()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.chroot(".")  # we live in a chroot ourselves; no way out without a capability
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _make_place(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _build_dev(dev: str, scratch: str) -> None:
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=1m")
    for name in _DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, scratch)
    os.mkdir(f"{dev}/pts")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
