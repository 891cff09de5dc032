"""The process that holds one attempt of the local site, and outlives the server.

Started by `runners.local.runner` with the attempt's lock already held. It stages in, runs the user's
code in its sandbox, enforces the limits, keeps the logs, sees the agent through, and writes each
step into state.json. When it is killed the attempt is lost: the kernel kills the user's code with
it, and the mark `started` makes sure that nobody runs that code again.

A job that fills the disk must not be taken for a fault of the site, which would run it again: room
for the words about its end is kept from the start.

Standard library and few imports, here and in all that it imports, because its start-up is part of
every job's waiting time.
"""

from __future__ import annotations

import os
import resource
import sys
import time

from runners import ending
from runners.local import cgroups, site_files
from runners.local.agents import Agents
from runners.local.process_tree import SandboxError
from runners.local.state_file import StateFile
from runners.local.user_code import UserCode
from runners.local.wakeups import Wakeups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DISK_FULL = "The site's disk was full when the job's end was to be recorded."


class Supervisor:
    """One attempt from the moment its lock is held to its last word."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        plan = site_files.read(directory, site_files.PLAN)
        if plan is None:
            raise FileNotFoundError(f"{directory}/{site_files.PLAN}")
        self._plan = plan
        site_files.write(directory, site_files.LAUNCHED, "", durable=False)
        self._wakeups = Wakeups(directory)
        self._state = StateFile(directory, plan["watchers"])
        self._agents = Agents(plan, directory, self._wakeups, self._state)
        self._code = UserCode(plan, directory, self._wakeups, self._state, self._agents)

    @property
    def cgroup_parent(self) -> str | None:
        """The group beneath which the site's control groups are; None when there are none."""
        return self._plan["cgroup"]["parent"] if self._plan["cgroup"] else None

    # -- the whole of it

    def run(self) -> None:
        """See the attempt through."""
        final = "ended"
        self._wakeups.look_for_stop()  # after the socket is bound: a stop is either seen here or wakes us
        try:
            outcome: dict[str, Any] | None = self._stage_in() if self._plan["stage_in"] else None
            if outcome is None and self._wakeups.stop_asked:
                outcome = ending.outcome("stopped", ending.NEVER_STARTED)
            if outcome is None:
                outcome = self._hand_in(self._code.run())
        except (OSError, SandboxError) as error:
            outcome = self._broken_off(error)
        if outcome["cause"] == "lost":
            final = "lost"
        self._agents.kill()
        self._code.end()
        self._state.tell(final, durable=True, outcome=outcome)
        os.close(self._lock)  # only now is the state final for those who look
        self._state.ring()

    def _broken_off(self, error: Exception) -> dict[str, Any]:
        """What to say when we could not go on. Code that has run while the disk filled is not run again."""
        detail = f"{type(error).__name__}: {error}"
        if self._code.started and isinstance(error, OSError) and error.errno in site_files.FULL:
            return ending.outcome("out-of-disk", _DISK_FULL, detail)
        return ending.outcome("lost", "The site failed to run the job.", detail, transient=True)

    # -- staging in

    def _stage_in(self) -> dict[str, Any] | None:
        """None when the inputs are there, or when a stop came: the caller looks."""
        self._state.tell("staging")
        for _ in range(self._agents.tries):
            code = self._agents.stage_in()
            if self._wakeups.stop_asked or code == 0:
                return None
            if code == self._agents.exits["fenced"]:
                return ending.outcome("stopped", "The attempt was no longer wanted.")
            if code == self._agents.exits["stage-in"]:
                break
        word = self._agents.word("stage-in.json")
        return ending.outcome(
            "stage-in",
            word.get("message") or "The job's inputs could not be fetched.",
            word.get("detail") or "",
            transient=bool(word.get("transient", True)),
        )

    # -- handing in

    def _hand_in(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Wait until the agent has handed in what there is; it knows by logs/exit."""
        if not self._code.started:
            return outcome
        since = time.monotonic()
        problem = ""
        for attempt in range(self._agents.tries):
            agent = self._agents.current
            if agent is None or not agent.running:
                self._wakeups.pause(min(0.1 * 2**attempt, 5.0) if attempt else 0)
                agent = self._agents.start("follow")
            self._agents.see_follow_through(agent, lambda: self._patience(since))
            if agent.ended in (0, self._agents.exits["fenced"]):
                return outcome
            if agent.ended == self._agents.exits["stage-out"]:
                break
            problem = f"The agent ended with {agent.ended}."
            if time.monotonic() > self._patience(since):
                break
        if outcome["cause"] != "succeeded":
            return outcome  # the first reason is the one to tell
        if self._wakeups.stop_asked:
            return ending.outcome("stopped", "The job was stopped on request.", problem)
        if site_files.is_full(self._directory):
            return ending.outcome("out-of-disk", _DISK_FULL, problem, outcome["exit_code"])
        word = self._agents.word("stage-out.json")
        return ending.outcome(
            "stage-out",
            word.get("message") or "The job's results could not be stored.",
            word.get("detail") or problem,
            outcome["exit_code"],
            transient=bool(word.get("transient", True)),
        )

    def _patience(self, since: float) -> float:
        """Until when the agent may work on undisturbed, if the user's code ended at `since`."""
        if self._wakeups.stop_seen is None:
            return since + float(self._plan["agent_limit"])
        return max(since, self._wakeups.stop_seen) + float(self._plan["limits"]["grace"])


def main() -> None:
    """``DIRECTORY LOCK``: the attempt's directory, and the descriptor that holds its lock."""
    directory, lock = sys.argv[-2], int(sys.argv[-1])
    os.set_inheritable(lock, False)
    os.closerange(3, lock)
    os.closerange(lock + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.umask(0o022)
    os.chdir("/")
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-800")  # losing it costs an attempt; the user's process gets 0 again
    except OSError:
        pass
    supervisor = Supervisor(directory, lock)
    if supervisor.cgroup_parent:
        cgroups.leave_own_group(supervisor.cgroup_parent)
    supervisor.run()
