"""The agent program beside one attempt: run, watched, and run again."""

from __future__ import annotations

import os
import signal
import time

from runners.local import child, processes, site_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runners.local.state_file import StateFile
    from runners.local.wakeups import Wakeups

_MARGIN = 2.0  # seconds after the grace that SIGTERM gives the agent: it ends by itself before


class AgentRun:
    """One run of the agent program, for `stage-in` or `follow`."""

    def __init__(self, plan: dict[str, Any], verb: str, directory: str) -> None:
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                child.die_with_parent(parent)
                os.setsid()
                argv = [*plan["agent"], verb, directory]
                null = os.open(os.devnull, os.O_RDWR)
                log = os.open(f"{directory}/agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                child.run_program(argv, plan["agent_environment"], (null, log, log))
            finally:
                os._exit(127)
        self.descriptor = os.pidfd_open(self.pid)
        self.identity = processes.identify(self.pid)
        self.ended: int | None = None  # exit code, negative for a signal
        self._moved = (0, 0)
        self._since = time.monotonic()

    @property
    def running(self) -> bool:
        return self.ended is None

    def collect(self) -> None:
        """Take its exit code; it has ended."""
        self.ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.descriptor)

    def send(self, number: signal.Signals) -> None:
        """Signal it and its children."""
        if self.running:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # before its setsid
                os.kill(self.pid, number)

    def stalled_for(self) -> float:
        """Seconds since it last read or wrote a byte."""
        try:
            with open(f"/proc/{self.pid}/io", encoding="ascii") as file:
                numbers = dict(line.split(": ") for line in file)
            moved = int(numbers["rchar"]), int(numbers["wchar"])
        except (OSError, ValueError, KeyError):
            return 0.0
        if moved != self._moved:
            self._moved, self._since = moved, time.monotonic()
        return time.monotonic() - self._since


class Agents:
    """All runs of the agent for one attempt, one after the other.

    `exits` are the exit codes by which it says why it gave up: ``stage-in``, ``stage-out``, ``fenced``.
    """

    def __init__(self, plan: dict[str, Any], directory: str, wakeups: Wakeups, state: StateFile) -> None:
        self._plan = plan
        self._directory = directory
        self._wakeups = wakeups
        self._state = state
        self.exits: dict[str, int] = plan["agent_exits"]
        self.current: AgentRun | None = None

    @property
    def tries(self) -> int:
        """How often the agent is run for one purpose."""
        return int(self._plan["agent_tries"])

    @property
    def running(self) -> bool:
        return self.current is not None and self.current.running

    def start(self, verb: str) -> AgentRun:
        """Run it once more; the last run has ended."""
        agent = self.current = AgentRun(self._plan, verb, self._directory)
        self._state.facts["agent"] = agent.identity

        def ended() -> None:
            self._wakeups.unlisten(agent.descriptor)
            agent.collect()

        self._wakeups.listen(agent.descriptor, ended)
        return agent

    def kill(self) -> None:
        """End the run that there is, if there is one."""
        if self.current is not None and self.current.running:
            self.current.send(signal.SIGKILL)
            self.current.collect()

    def word(self, name: str) -> dict[str, Any]:
        """What it wrote down about why it failed; {} when it did not."""
        word = site_files.read_hint(f"{self._directory}/{name}")
        return word if isinstance(word, dict) else {}

    def stage_in(self) -> int | None:
        """Have it fetch the inputs; its exit code. A stop ends it, and so does a stall."""
        agent = self.start("stage-in")
        grace = self._plan["limits"]["grace"]
        asked = False
        while agent.running:
            self._wakeups.turn(0.2 if asked else 1.0)
            stop_seen = self._wakeups.stop_seen
            if stop_seen is not None and not asked:
                agent.send(signal.SIGTERM)
                asked = True
            elif (stop_seen is not None and time.monotonic() - stop_seen > grace / 2) or self._stalls(agent):
                agent.send(signal.SIGKILL)
        return agent.ended

    def see_follow_through(self, agent: AgentRun, patience: Callable[[], float]) -> None:
        """Wait until it has handed in what there is.

        :param patience: asked again and again: until when, on the monotonic clock, it may work on.
        """
        asked: float | None = None
        while agent.running:
            self._wakeups.turn(0.5)
            moment = time.monotonic()
            if asked is None and moment > patience():
                agent.send(signal.SIGTERM)
                asked = moment
            elif (
                asked is not None and moment > asked + self._plan["limits"]["grace"] + _MARGIN
            ) or self._stalls(agent):
                agent.send(signal.SIGKILL)

    def _stalls(self, agent: AgentRun) -> bool:
        return agent.stalled_for() > float(self._plan["agent_stall"])
