"""Start one attempt's user code, at most once, and watch it to its end."""

from __future__ import annotations

import fcntl
import json
import os
import time

from runners import ending
from runners.local import (
    bubblewrap,
    capped_log,
    cgroups,
    child,
    namespaces,
    plain,
    process_tree,
    processes,
    site_files,
)
from runners.local.disk_watch import DiskWatch
from runners.local.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runners.local.agents import Agents
    from runners.local.state_file import StateFile
    from runners.local.wakeups import Wakeups

_STDERR_TAIL = 4096
_PIPE = 1024**2
_TREES: dict[str, type[process_tree.Tree]] = {
    "namespaces": namespaces.NamespaceTree,
    "bubblewrap": bubblewrap.BubblewrapTree,
    "none": plain.PlainTree,
}


def now() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class UserCode:
    """The user's code of one attempt: its tree of processes, its limits, its logs.

    While it runs, an agent is kept going beside it.
    """

    def __init__(
        self, plan: dict[str, Any], directory: str, wakeups: Wakeups, state: StateFile, agents: Agents
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._wakeups = wakeups
        self._state = state
        self._agents = agents
        self._cgroup: cgroups.Cgroup | None = None
        self._tree: process_tree.Tree | None = None
        self._collected: int | None = None  # wait status of the tree's leader
        self.started = False  # it may have run

    def run(self) -> dict[str, Any]:
        """See it through.

        :raises OSError, SandboxError: the site could not run it.
        """
        tree, pipes = self._spawn()
        mark = {"boot": processes.boot_id(), "leaders": tree.identities()}
        self._mark_started(json.dumps(mark))
        site_files.sync(os.path.dirname(self._directory))
        leader = os.pidfd_open(tree.leader)
        self._wakeups.listen(leader, self._collect)
        limits = Limits(self._plan, tree, self._cgroup)
        self._wakeups.look_for_stop()
        if self._wakeups.stop_asked:
            tree.kill()
        else:
            tree.go()
            self.started = True
            self._state.tell("running", started=now())
            self._start_agent(tree)
        self._hold(tree, limits)
        self._wakeups.unlisten(leader)
        os.close(leader)
        status = self._end_tree()
        self._state.facts["ended"] = now()
        for pipe, log in pipes.items():
            self._wakeups.unlisten(pipe)
            while log.copy(pipe):
                pass
            log.close()
            os.close(pipe)
        # Nothing of the job writes any more: what follows is for logs/exit, and for the agent.
        site_files.give_back(self._directory, site_files.LAST_ROOM)
        if not self.started:
            return ending.outcome("stopped", ending.NEVER_STARTED)
        return self._judge(tree, tree.exit_code(status), limits)

    def end(self) -> None:
        """Leave nothing of it, whatever has happened."""
        self._end_tree()
        if self._cgroup is not None:
            self._cgroup.remove()

    def _mark_started(self, mark: str) -> None:
        try:
            site_files.write(self._directory, site_files.STARTED, mark, durable=True)
        except OSError as error:
            if error.errno not in site_files.FULL:
                raise
            site_files.give_back(self._directory, site_files.LAST_ROOM)
            site_files.write(self._directory, site_files.STARTED, mark, durable=True)

    def _spawn(self) -> tuple[process_tree.Tree, dict[int, capped_log.CappedLog]]:
        """The user's process at its gate, and the pipes from it with the files they fill."""
        plan, limits = self._plan, self._plan["limits"]
        if plan["cgroup"]:
            self._cgroup = cgroups.Cgroup(plan["cgroup"]["parent"], plan["name"], plan["cgroup"]["roots"])
            most = limits["processes"] + _TREES[plan["mode"]].companions
            self._cgroup.create(limits["memory"], most, limits["cpu_milli"])
        tree = self._tree = _TREES[plan["mode"]]({**plan, "rlimits": self._rlimits()})
        os.makedirs(f"{self._directory}/logs", exist_ok=True)
        pipes = {}
        ends = []
        for name in ("stdout", "stderr"):
            pipe, end = _roomy_pipe()
            pipes[pipe] = capped_log.CappedLog(f"{self._directory}/logs/{name}", limits["log"])
            ends.append(end)
            self._copy_when_ready(pipe, pipes[pipe])
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        groups = self._cgroup.entries() if self._cgroup else []
        try:
            tree.spawn((null, ends[0], ends[1]), groups)
        finally:
            process_tree.close(null, *ends, *groups)
        return tree, pipes

    def _rlimits(self) -> dict[str, int]:
        limits = self._plan["limits"]
        found = {"fsize": limits["disk"], "nproc": limits["processes"]}
        if self._plan["uid"] is None:
            found["nproc"] += processes.threads_of(os.getuid())  # it counts all that the user has
        if not self._cgroup or "memory" not in self._cgroup.directories:
            found["data"] = 2 * limits["memory"]  # the second line: `Limits` is the first
        return found

    def _copy_when_ready(self, pipe: int, log: capped_log.CappedLog) -> None:
        def copy() -> None:
            if not log.copy(pipe):
                self._wakeups.unlisten(pipe)  # its end: poll would tell us for ever

        self._wakeups.listen(pipe, copy)

    def _hold(self, tree: process_tree.Tree, limits: Limits) -> None:
        """Enforce the limits until the leader has ended, and keep an agent going meanwhile."""
        restarts = 0
        restart_due: float | None = None
        while not self._has_ended():
            due = limits.due() if restart_due is None else min(limits.due(), restart_due)
            self._wakeups.turn(due - time.monotonic())
            if self._has_ended():
                break
            limits.enforce(self._wakeups.stop_asked)
            if not self.started or self._agents.running or restarts >= self._agents.tries:
                continue
            if restart_due is None:
                restart_due = time.monotonic() + min(0.1 * 2**restarts, 5.0)
            elif time.monotonic() >= restart_due:
                restarts += 1
                restart_due = None
                self._start_agent(tree)

    def _judge(self, tree: process_tree.Tree, code: int, limits: Limits) -> dict[str, Any]:
        """Say how the user's code ended; logs/exit comes last, for the agent waits for it."""
        plan = self._plan
        failure = tree.failure()
        if failure and code == child.SETUP_FAILED:
            raise process_tree.SandboxError(failure)
        words = limits.words
        if limits.cause is None and code != 0:  # it may have been cut off at the limit
            words = DiskWatch(plan["work"], plan["limits"]["disk"], plan["limits"]["output"]).look(set, 2.0)
        out_of_memory = self._cgroup is not None and self._cgroup.out_of_memory()
        text = f"{code} {self._state.facts['ended']}\n"
        site_files.write(f"{self._directory}/logs", "exit", text, durable=False, mode=0o644)
        self._state.tell("finishing")
        if failure:
            return ending.outcome("failed", f"The program could not be started: {failure}.", exit_code=code)
        errors = site_files.read_hostile(f"{self._directory}/logs/stderr", _STDERR_TAIL, tail=True)
        return ending.of_user_code(
            ended_by=limits.cause,
            exit_code=code,
            out_of_memory=out_of_memory,
            disk_full=words,
            limits=plan["limits"],
            hint=site_files.read_hint(f"{plan['work']}/uws/error.json"),
            stderr=errors.decode(errors="replace"),
        )

    def _has_ended(self) -> bool:
        return self._collected is not None

    def _collect(self) -> None:
        if self._tree is not None:
            self._collected = os.waitpid(self._tree.leader, 0)[1]

    def _start_agent(self, tree: process_tree.Tree) -> None:
        tree.agent = self._agents.start("follow").pid

    def _end_tree(self) -> int:
        """Kill what is left of the tree, and wait until it has gone; the leader's wait status."""
        tree = self._tree
        if tree is None or not tree.leader:
            return 0
        if self._collected is None:
            tree.kill()
            self._collect()
        tree.settle()
        return self._collected or 0


def _roomy_pipe() -> tuple[int, int]:
    """A pipe that we read without waiting, and that user code fills without waiting for us."""
    out, into = os.pipe()
    os.set_blocking(out, False)
    try:
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
    except OSError:
        pass  # the user has many pipes already; slower, nothing else
    return out, into
