"""A local site for tests: real processes, a stand-in for the agent, and a close that checks."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runners.base import Observation, State
from runners.local import cgroups, processes
from runners.local.isolation import IsolationError, LocalSettings, Mode, probe
from runners.local.runner import LocalRunner
from tests.waiting import until
from uws_server.domain.runspec import AttemptLimits, Resources, RunSpec

# Waits as the real agent does, and fails or delays where a file in the site's directory says so.
AGENT = """
case $1 in
stage-in) if [ -e "$2/../../stage-in" ]; then . "$2/../../stage-in"; fi ;;
follow) while [ ! -e "$2/logs/exit" ]; do sleep 0.02; done
    if [ -e "$2/../../follow" ]; then . "$2/../../follow"; fi ;;
esac
"""
QUICK = AttemptLimits(grace=2)
SMALL = Resources(memory_bytes=256 * 1024**2, disk_bytes=64 * 1024**2, processes=64, cpu_milli=2000)
_numbers = itertools.count(1)


def modes() -> list[Mode]:
    """The ways of isolation that work for this user on this machine."""
    working: list[Mode] = []
    every: tuple[Mode, ...] = ("namespaces", "bubblewrap", "none")
    for mode in every:
        try:
            probe(LocalSettings(isolation=mode))
        except IsolationError:
            continue
        working.append(mode)
    return working


def with_command_line(mark: str) -> list[int]:
    """Pids of living processes, except this one, with `mark` in their command line."""
    found = []
    for process in processes.table().values():
        try:
            text = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and not process.ended and process.pid != os.getpid():
            found.append(process.pid)
    return found


class LocalSite:
    """One site directory and a runner on it."""

    def __init__(self, directory: Path, mode: Mode, **settings: Any) -> None:
        self.directory = directory
        self.cgroup = f"uwstest-{os.getpid()}-{next(_numbers)}"
        self.settings = LocalSettings(
            isolation=mode,
            cgroup=self.cgroup,
            uid_registry=directory / "uids",
            **{"agent": ("/bin/sh", "-c", AGENT, "agent"), **settings},
        )
        self.runner = LocalRunner(directory, self.settings)
        self._others: list[LocalRunner] = []

    def another(self) -> LocalRunner:
        """What a server that is started again would make."""
        runner = LocalRunner(self.directory, self.settings)
        self._others.append(runner)
        return runner

    def spec(self, *command: str, **fields: Any) -> RunSpec:
        job_id = f"0{next(_numbers):013d}{secrets.token_hex(6)}"
        given = RunSpec(job_id, 1, "test", "command", command, limits=QUICK, resources=SMALL)
        return replace(given, **fields)

    def start(self, *command: str, **fields: Any) -> RunSpec:
        spec = self.spec(*command, **fields)
        self.runner.start(spec, "http://127.0.0.1:9/agent/v1", "secret-token")
        return spec

    def run(self, *command: str, **fields: Any) -> Observation:
        """Start it, and see it to its end."""
        return self.ended(self.start(*command, **fields))

    def seen(self, spec: RunSpec) -> Observation | None:
        for seen in self.runner.observe():
            if (seen.job_id, seen.attempt) == (spec.job_id, spec.attempt):
                return seen
        return None

    def reached(self, spec: RunSpec, *states: State) -> Observation:
        def look() -> Observation | None:
            seen = self.seen(spec)
            return seen if seen and seen.state in states else None

        return until(look, lambda: f"{[state.value for state in states]}: {self.seen(spec)}")

    def ended(self, spec: RunSpec) -> Observation:
        return self.reached(spec, State.ENDED, State.LOST)

    def attempt(self, spec_or_seen: RunSpec | Observation) -> Path:
        return self.directory / "attempts" / f"{spec_or_seen.job_id}.{spec_or_seen.attempt}"

    def log(self, which: RunSpec | Observation, name: str = "stdout") -> str:
        return (self.attempt(which) / "logs" / name).read_text(errors="replace")

    def supervisor(self, spec: RunSpec) -> int:
        """Pid of the attempt's living supervisor, waiting until there is one."""
        name = f"{self.attempt(spec)}"

        def look() -> list[int]:
            return [
                pid
                for pid in with_command_line(name)
                if b"runners.local.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()
                and not _has_sandbox_parent(pid)
            ]

        return until(look, f"a supervisor of {name}")[0]

    def kill_supervisor(self, spec: RunSpec) -> None:
        supervisor = processes.identify(self.supervisor(spec))
        os.kill(supervisor[0], signal.SIGKILL)
        until(lambda: not processes.lives(supervisor), "the supervisor's end")

    def close(self) -> None:
        """Stop, forget, and check that nothing is left."""
        for seen in self.runner.observe():
            self.runner.stop(seen.job_id, seen.attempt)
        until(
            lambda: all(seen.state in (State.ENDED, State.LOST) for seen in self.runner.observe()),
            "the end of all attempts",
        )
        for seen in self.runner.observe():
            self.runner.forget(seen.job_id, seen.attempt)
        for runner in (self.runner, *self._others):
            runner.close()
        assert not list((self.directory / "attempts").iterdir())
        assert not list((self.directory / "trash").iterdir())
        until(lambda: not with_command_line(f"{self.directory}/attempts/"), "the end of all processes")
        roots = {*cgroups.hierarchies().values(), f"{cgroups.ROOT}/systemd", f"{cgroups.ROOT}/unified"}

        def swept() -> bool:  # a supervisor that has said its last word may be in its group yet
            cgroups.sweep(self.cgroup)
            return not [root for root in roots if Path(root, self.cgroup).exists()]

        until(swept, "the end of all control groups")


def _has_sandbox_parent(pid: int) -> bool:
    """Whether it is the supervisor's fork, our process 1 of the sandbox."""
    process = processes.look_up(pid)
    try:
        parent = Path(f"/proc/{process.parent if process else 0}/cmdline").read_bytes()
    except OSError:
        return False
    return b"runners.local.supervisor" in parent


@contextmanager
def local_site(directory: Path, mode: Mode, **settings: Any) -> Iterator[LocalSite]:
    """A site that is closed, and found clean, at the end."""
    site = LocalSite(directory, mode, **settings)
    try:
        yield site
    finally:
        site.close()
