"""A node seen from outside: making it, running programs on it, ending it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.layout import ROOT, Layout
from tests.waiting import PATIENCE, until


class Failed(Exception):
    """The cluster is not what was asked for; the message says what to look at."""


def run(
    *words: str | Path,
    text: str | None = None,
    seconds: float = PATIENCE,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """What a command prints; raises `Failed` with what it complained of when it fails.

    ``environment`` is besides that of this process.
    """
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | (environment or {}),
        cwd=directory,
        check=False,
    )
    if done.returncode:
        command = " ".join(map(str, words))
        raise Failed(f"{command[:300]}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Process:
    """A process that may have ended: its id, and its start time so that no other is taken for it."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _stat(pid)[1])

    def lives(self) -> bool:
        """Whether it still runs; one that has ended and was not collected does not."""
        state, started = _stat(self.pid)
        return started == self.started and state not in "ZX"


def _stat(pid: int) -> tuple[str, str]:
    """State letter and start time of a process, or of none: 'X' and ''."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[19]


_outer_processes: dict[Path, int] = {}
"""Of the nodes that this process began: directory → the child of ours that waits for the first process."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a cluster: a set of namespaces held by its first process."""

    layout: Layout
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def directory(self) -> Path:
        return self.layout.node_dir(self.number)

    @property
    def ip(self) -> str:
        return self.layout.node_ip(self.number)

    @property
    def containerd(self) -> Path:
        return self.directory / "containerd.sock"

    def first_process(self) -> Process | None:
        """The node's process 1, as this machine numbers it, if it was ever started."""
        try:
            return Process(**json.loads((self.directory / "init.json").read_text()))
        except (OSError, ValueError):
            return None

    def lives(self) -> bool:
        first = self.first_process()
        return first is not None and first.lives()

    def begin(self, until_end_of: int | None) -> None:
        """Start the first process in namespaces of its own; with a process id, until that process ends."""
        self.directory.mkdir(parents=True)
        orders = [sys.executable, "-m", "tests.cluster.node_init", str(self.directory)]
        if until_end_of is None:
            outer = self._spawn(orders)
        else:
            watched = os.pidfd_open(until_end_of)
            os.set_inheritable(watched, True)
            outer = self._spawn([*orders, str(watched)])
            os.close(watched)
        _outer_processes[self.directory] = outer
        children = Path(f"/proc/{outer}/task/{outer}/children")
        until(lambda: bool(children.read_text().split()), f"{self.name} is there")
        first = Process.of(int(children.read_text().split()[0]))
        (self.directory / "init.json").write_text(json.dumps({"pid": first.pid, "started": first.started}))
        until(
            lambda: (self.directory / "init.sock").exists() or not self.lives(), f"{self.name} takes orders"
        )
        if not self.lives():
            raise Failed(f"{self.name} ended at once; see {self.layout.logs / f'{self.name}-init.log'}")

    def _spawn(self, command: list[str]) -> int:
        """Start a command as process 1 of new namespaces; gives the process outside that waits for it."""
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        log = str(self.layout.logs / f"{self.name}-init.log")
        return os.posix_spawnp(
            unshare[0],
            [*unshare, *command],
            os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the first process for something; raises `Failed` when it says no."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(PATIENCE)
            door.connect(str(self.directory / "init.sock"))
            with door.makefile("rw") as lines:
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                answer: dict[str, Any] = json.loads(lines.read())
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def start(self, name: str, *argv: str | Path) -> None:
        """Start a program; its command is kept, so that `restart` can start it again."""
        words = [str(word) for word in argv]
        (self.directory / f"{name}.argv").write_text(json.dumps(words))
        self.order({"do": "start", "name": name, "argv": words})

    def restart(self, name: str) -> None:
        """Start a program that has ended again, as it was started before."""
        argv = json.loads((self.directory / f"{name}.argv").read_text())
        self.order({"do": "start", "name": name, "argv": argv})

    def runs(self, name: str) -> bool:
        return name in self.order({"do": "list"})["running"]

    def send(self, name: str, number: int) -> None:
        """Send a program a signal: SIGSTOP and SIGCONT pause it, and let it go on."""
        self.order({"do": "signal", "name": name, "signal": int(number)})

    def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a program and wait until it is gone."""
        self.send(name, number)
        until(lambda: not self.runs(name), f"{name} has ended")

    def inside(self, *words: str | Path, text: str | None = None, seconds: float = PATIENCE) -> str:
        """Run a command in the node's namespaces; raises `Failed` as `run` does."""
        first = self.first_process()
        if first is None or not first.lives():
            raise Failed(f"{self.name} is not there")
        return run(
            *("nsenter", f"--target={first.pid}", "--net", "--mount", "--pid", "--"),
            *words,
            text=text,
            seconds=seconds,
        )

    def end(self) -> None:
        """End everything that runs on the node, at once; doing it again does nothing."""
        first = self.first_process()
        if first is not None and first.lives():
            with suppress(ProcessLookupError):  # it may end by itself at this very moment
                os.kill(first.pid, signal.SIGKILL)
            until(lambda: not first.lives(), f"{self.name} has ended")
        outer = _outer_processes.pop(self.directory, None)
        if outer is not None:
            os.waitpid(outer, 0)
