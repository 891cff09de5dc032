"""The first process of a node: starts the node's programs when told to, and collects everything that ends.

It runs as process 1 of process, mount and network namespaces of its own. So one kill ends all that ever ran
on the node, pods included, and the kernel itself takes mounts and network cards away.

Run as ``python -m tests.cluster.node_init DIRECTORY [FD]``. It listens on DIRECTORY/init.sock, reads one JSON
object a connection and answers with one:

    {"do": "start", "name": …, "argv": […]}    {"do": "signal", "name": …, "signal": 9}    {"do": "list"}

When the process that pidfd FD stands for ends, the node ends too.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What the kubelet sets for the whole machine. On a node these are plain files: the machine's stay."""


def mount(*words: str | Path) -> None:
    """Mount something in the node's own mount namespace."""
    subprocess.run(["mount", *map(str, words)], check=True)


def prepare(directory: Path) -> None:
    """Give the node the places where its programs write outside the cluster's directory."""
    for place in ("/run", "/var/log", "/var/lib"):
        mount("-t", "tmpfs", "-o", "mode=755", "node", place)
    for name in KERNEL_SETTINGS:
        stand_in = directory / "kernel" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        real = Path("/proc/sys", name)
        stand_in.write_text(real.read_text())
        mount("--bind", stand_in, real)
    # Pods are routed, within the node's own network namespace only.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Programs:
    """The programs of a node by name: process ids, and how those that ended did."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def start(self, name: str, argv: list[str]) -> int:
        """Start a program under a name that no running one has; its output is added to its log."""
        if name in self._running:
            raise ValueError(f"{name} runs already")
        log = os.open(
            self._logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        try:
            actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions, setsid=True)
        finally:
            os.close(log)
        self._running[name] = pid
        self._ended.pop(name, None)
        return pid

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a running program."""
        os.kill(self._running[name], number)

    def collect(self) -> None:
        """Take note of what has ended; orphans end here too, and are forgotten."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for name, running in list(self._running.items()):
                    if running == pid:
                        del self._running[name]
                        self._ended[name] = os.waitstatus_to_exitcode(status)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request says; a mistake is an answer too."""
        try:
            match request["do"]:
                case "start":
                    return {"pid": self.start(request["name"], request["argv"])}
                case "signal":
                    self.signal(request["name"], request["signal"])
                    return {}
                case "list":
                    return {"running": self._running, "ended": self._ended}
                case word:
                    return {"error": f"no such request: {word}"}
        except (OSError, KeyError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


def serve(directory: Path, watched: int | None) -> None:
    """Answer requests until the watched process ends."""
    programs = Programs(directory.parent / "log")
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(directory / "init.sock"))
    door.listen()
    selector = selectors.DefaultSelector()
    selector.register(door, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    if watched is not None:
        selector.register(watched, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if watched in ready:
            return
        if wake in ready:
            wake.recv(4096)
        programs.collect()
        if door in ready:
            with contextlib.suppress(OSError, ValueError), door.accept()[0] as caller:
                caller.settimeout(60)
                with caller.makefile("rw") as lines:
                    lines.write(json.dumps(programs.answer(json.loads(lines.readline()))))


def main() -> None:
    directory = Path(sys.argv[1])
    prepare(directory)
    serve(directory, int(sys.argv[2]) if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    main()
