"""The process that holds one attempt of the local site, and outlives the server.

Started by `runners.local.runner` with the attempt's lock already held. It stages in, runs the user's
code in its sandbox, enforces the limits, keeps the logs, sees the agent through, and writes each
step into state.json. When it is killed the attempt is lost: the kernel kills the user's code with
it, and the mark `started` makes sure that nobody runs that code again.

A job that fills the disk must not be taken for a fault of the site, which would run it again: room
for the words about its end is kept from the start.

Standard library and few imports, because its start-up is part of every job's waiting time.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
import time

from runners.local import capped_log, cgroups, ending, processes, sandbox, site_files, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_STAGE_FAILED = 65  # exit codes of the agent
_STORE_FAILED = 66
_FENCED_OFF = 67
_AGENT_MARGIN = 2.0  # seconds after the grace that SIGTERM gives the agent: it ends by itself before
_DISK_TICK = 0.25  # seconds between two looks at the disk, at least
_MEMORY_TICK = 0.1
_WALK_SLICE = 0.01  # seconds of one piece of such a look
_STDERR_TAIL = 4096
_PIPE = 1024**2
_DISK_FULL = "The site's disk was full when the job's end was to be recorded."
_TREES: dict[str, type[sandbox.Tree]] = {
    "namespaces": sandbox.NamespaceTree,
    "bubblewrap": sandbox.BubblewrapTree,
    "none": sandbox.PlainTree,
}


def now() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Agent:
    """One run of the agent program, for `stage-in` or `follow`."""

    def __init__(self, plan: dict[str, Any], verb: str, directory: str) -> None:
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                sandbox.die_with_parent(parent)
                os.setsid()
                argv = [*plan["agent"], verb, directory]
                null = os.open(os.devnull, os.O_RDWR)
                log = os.open(f"{directory}/agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                sandbox.run_program(argv, plan["agent_environment"], (null, log, log))
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


class DiskWatch:
    """Looks again and again, in short slices, at how much the user's code has written.

    What it reads in counts elsewhere; files that are deleted but still open count here too.
    """

    def __init__(self, work: str, disk: int, outputs: int) -> None:
        self._work = work
        self._limits = {"outputs": outputs, "": disk}
        self._walk: Iterator[tuple[str, int]] | None = None
        self._sums: dict[str, int] = {}
        self._spent = 0.0
        self.due = time.monotonic() + _DISK_TICK

    def look(self, pids: Callable[[], set[int]], seconds: float = _WALK_SLICE) -> str:
        """Look on for so long. What was written too much of, in words; '' while it is not."""
        begun = time.monotonic()
        if self._walk is None:
            self._walk, self._sums, self._spent = self._entries(pids), {"outputs": 0, "": 0}, 0.0
        found = ""
        try:
            for place, size in self._walk:
                self._sums[""] += size
                if place == "outputs":
                    self._sums[place] += size
                if found := self._too_much():
                    break
                if time.monotonic() - begun > seconds:
                    self._spent += time.monotonic() - begun
                    self.due = time.monotonic() + 2 * seconds
                    return ""
        except trees.TooDeep:
            found = f"nested directories deeper than {trees.DEEPEST} levels"
        self._walk = None
        moment = time.monotonic()
        self.due = moment + max(_DISK_TICK, 20 * (self._spent + moment - begun))
        return found

    def _too_much(self) -> str:
        if self._sums[""] > self._limits[""] - self._slack(""):
            return f"wrote more to disk than its limit of {ending.size(self._limits[''])}"
        if self._sums["outputs"] > self._limits["outputs"] - self._slack("outputs"):
            return f"wrote more output than its limit of {ending.size(self._limits['outputs'])}"
        return ""

    def _slack(self, place: str) -> int:
        """A file cut off at the limit by the kernel has, with its directory, reached it."""
        return min(4096, self._limits[place] // 2)

    def _entries(self, pids: Callable[[], set[int]]) -> Iterator[tuple[str, int]]:
        for place in os.listdir(self._work):
            if place == "inputs":
                continue
            for size in trees.usage(f"{self._work}/{place}"):
                yield place, size
        for size in trees.deleted(pids(), os.stat(self._work).st_dev):
            yield "tmp", size


class Limits:
    """Ends a tree that goes beyond its limits, or is to stop: SIGTERM first, SIGKILL in time."""

    def __init__(self, plan: dict[str, Any], tree: sandbox.Tree, group: cgroups.Cgroup | None) -> None:
        self._limits = plan["limits"]
        self._tree = tree
        self._group = group
        begun = time.monotonic()
        duration = self._limits["duration"]
        self._deadline = begun + duration if duration else None
        self._disk = DiskWatch(plan["work"], self._limits["disk"], self._limits["output"])
        self._memory_due = None if group and "memory" in group.directories else begun
        self._kill_at: float | None = None
        self.cause: str | None = None  # why we ended it
        self.words = ""  # what it wrote too much of

    def due(self) -> float:
        """When `enforce` has something to do next."""
        times = [self._kill_at, self._disk.due, self._memory_due]
        if self.cause is None:
            times.append(self._deadline)
        return min(at for at in times if at is not None)

    def enforce(self, stop_asked: bool) -> None:
        """Do what is due."""
        moment = time.monotonic()
        if self._kill_at is not None and moment >= self._kill_at:
            self._tree.kill()
            self._kill_at = moment + 1
        if self.cause is None and stop_asked:
            self._end("stopped", self._limits["grace"])
        if self.cause is None and self._deadline is not None and moment >= self._deadline:
            self._end("timed-out", self._limits["grace"])
        if moment >= self._disk.due:
            found = self._disk.look(self._pids)
            if found and not self.words:
                self.words = found
                self._end(self.cause or "out-of-disk", 1.0)  # it may be writing on meanwhile
        if self._memory_due is not None and moment >= self._memory_due:
            self._look_at_memory(moment)

    def _look_at_memory(self, moment: float) -> None:
        if processes.memory_of(self._tree.members(), self._limits["memory"]) > self._limits["memory"]:
            self.cause = self.cause or "out-of-memory"
            self._tree.kill()
        self._memory_due = time.monotonic() + max(_MEMORY_TICK, 20 * (time.monotonic() - moment))

    def _end(self, cause: str, patience: float) -> None:
        self.cause = cause
        self._kill_at = time.monotonic() + min(patience, self._limits["grace"] / 2)
        self._tree.terminate()

    def _pids(self) -> set[int]:
        if self._group is not None:
            return self._group.members()
        return {process.pid for process in self._tree.members()}


class Supervisor:
    """One attempt from the moment its lock is held to its last word."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        plan = site_files.read(directory, site_files.PLAN)
        if plan is None:
            raise FileNotFoundError(f"{directory}/{site_files.PLAN}")
        self._plan = plan
        self._state: dict[str, Any] = {"state": "staging", "supervisor": processes.identify(os.getpid())}
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        site_files.write(directory, site_files.LAUNCHED, "", durable=False)
        self._wake = site_files.bind_socket(directory, site_files.WAKE)
        self._listen(self._wake.fileno(), self._woken)
        self._stop_asked = False
        self._stop_seen: float | None = None
        self._agent: Agent | None = None
        self._cgroup: cgroups.Cgroup | None = None
        self._tree: sandbox.Tree | None = None
        self._collected: int | None = None  # wait status of the tree's leader

    @property
    def cgroup_parent(self) -> str | None:
        """The group beneath which the site's control groups are; None when there are none."""
        return self._plan["cgroup"]["parent"] if self._plan["cgroup"] else None

    # -- the whole of it

    def run(self) -> None:
        """See the attempt through."""
        final = "ended"
        self._look_for_stop()  # after the socket is bound: a stop is either seen here or wakes us
        try:
            outcome: dict[str, Any] | None = self._stage_in() if self._plan["stage_in"] else None
            if outcome is None and self._stop_asked:
                outcome = ending.outcome("stopped", ending.NEVER_STARTED)
            if outcome is None:
                outcome = self._run_user_code()
                outcome = self._see_agent_through(outcome)
        except (OSError, sandbox.SandboxError) as error:
            outcome = self._broken_off(error)
        if outcome["cause"] == "lost":
            final = "lost"
        if self._agent is not None and self._agent.running:
            self._agent.send(signal.SIGKILL)
            self._agent.collect()
        self._end_tree()
        if self._cgroup is not None:
            self._cgroup.remove()
        self._tell(final, durable=True, outcome=outcome)
        os.close(self._lock)  # only now is the state final for those who look
        self._ring()

    def _broken_off(self, error: Exception) -> dict[str, Any]:
        """What to say when we could not go on. Code that has run while the disk filled is not run again."""
        detail = f"{type(error).__name__}: {error}"
        if "started" in self._state and isinstance(error, OSError) and error.errno in site_files.FULL:
            return ending.outcome("out-of-disk", _DISK_FULL, detail)
        return ending.outcome("lost", "The site failed to run the job.", detail, transient=True)

    # -- waiting

    def _listen(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _unlisten(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def _turn(self, timeout: float | None) -> None:
        """Handle what happens within `timeout` seconds, at least one thing if any does."""
        for descriptor, _ in self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
            handler = self._handlers.get(descriptor)
            if handler:
                handler()

    def _woken(self) -> None:
        try:
            while self._wake.recv(16):
                pass
        except BlockingIOError:
            pass
        self._look_for_stop()

    def _look_for_stop(self) -> None:
        if not self._stop_asked and os.path.exists(f"{self._directory}/{site_files.STOP}"):
            self._stop_asked = True
            self._stop_seen = time.monotonic()

    # -- telling

    def _tell(self, state: str, *, durable: bool = False, **fields: Any) -> None:
        self._state.update(fields, state=state)
        text = json.dumps(self._state)
        for _ in range(100):
            try:
                site_files.write(self._directory, site_files.STATE, text, durable=durable)
                break
            except OSError:  # the disk is full, for us too: others' files may be going just now
                if not durable:
                    break  # the next word will do
                site_files.give_back(self._directory)
                time.sleep(0.1)
        if not durable:
            self._ring()

    def _ring(self) -> None:
        site_files.ring(self._plan["watchers"])

    # -- staging in

    def _stage_in(self) -> dict[str, Any] | None:
        """None when the inputs are there, or when a stop came: the caller looks."""
        self._tell("staging")
        for _ in range(self._plan["agent_tries"]):
            code = self._see_stage_in_through()
            if self._stop_asked or code == 0:
                return None
            if code == _FENCED_OFF:
                return ending.outcome("stopped", "The attempt was no longer wanted.")
            if code == _STAGE_FAILED:
                break
        word = self._word_of_agent("stage-in.json")
        return ending.outcome(
            "stage-in",
            word.get("message") or "The job's inputs could not be fetched.",
            word.get("detail") or "",
            transient=bool(word.get("transient", True)),
        )

    def _see_stage_in_through(self) -> int | None:
        agent = self._start_agent("stage-in")
        asked = False
        while agent.running:
            self._turn(0.2 if asked else 1.0)
            if self._stop_asked and not asked:
                agent.send(signal.SIGTERM)
                asked = True
            elif (asked and self._since_stop() > self._plan["limits"]["grace"] / 2) or (
                agent.stalled_for() > self._plan["agent_stall"]
            ):
                agent.send(signal.SIGKILL)
        return agent.ended

    def _since_stop(self) -> float:
        return 0.0 if self._stop_seen is None else time.monotonic() - self._stop_seen

    def _word_of_agent(self, name: str) -> dict[str, Any]:
        word = site_files.read_hint(f"{self._directory}/{name}")
        return word if isinstance(word, dict) else {}

    # -- the user's code

    def _run_user_code(self) -> dict[str, Any]:
        tree, pipes = self._spawn()
        mark = {"boot": processes.boot_id(), "leaders": tree.identities()}
        self._mark_started(json.dumps(mark))
        site_files.sync(os.path.dirname(self._directory))
        leader = os.pidfd_open(tree.leader)
        self._listen(leader, self._collect)
        limits = Limits(self._plan, tree, self._cgroup)
        self._look_for_stop()
        if self._stop_asked:
            tree.kill()
        else:
            tree.go()
            self._state["started"] = now()
            self._tell("running")
            self._start_agent("follow")
        self._hold(limits)
        self._unlisten(leader)
        os.close(leader)
        status = self._end_tree()
        self._state["ended"] = now()
        for pipe, log in pipes.items():
            self._unlisten(pipe)
            while log.copy(pipe):
                pass
            log.close()
            os.close(pipe)
        # Nothing of the job writes any more: what follows is for logs/exit, and for the agent.
        site_files.give_back(self._directory, site_files.LAST_ROOM)
        if "started" not in self._state:
            return ending.outcome("stopped", ending.NEVER_STARTED)
        return self._judge(tree, tree.exit_code(status), limits)

    def _mark_started(self, mark: str) -> None:
        try:
            site_files.write(self._directory, site_files.STARTED, mark, durable=True)
        except OSError as error:
            if error.errno not in site_files.FULL:
                raise
            site_files.give_back(self._directory, site_files.LAST_ROOM)
            site_files.write(self._directory, site_files.STARTED, mark, durable=True)

    def _spawn(self) -> tuple[sandbox.Tree, dict[int, capped_log.CappedLog]]:
        """The user's process at its gate, and the pipes from it with the files they fill."""
        plan, limits = self._plan, self._plan["limits"]
        if plan["cgroup"]:
            self._cgroup = cgroups.Cgroup(plan["cgroup"]["parent"], plan["name"], plan["cgroup"]["roots"])
            self._cgroup.create(limits["memory"], limits["processes"], limits["cpu_milli"])
        rlimits = {"fsize": limits["disk"], "nproc": limits["processes"]}
        if plan["uid"] is None:
            rlimits["nproc"] += processes.threads_of(os.getuid())  # it counts all that the user has
        if not self._cgroup or "memory" not in self._cgroup.directories:
            rlimits["data"] = 2 * limits["memory"]  # the second line: `Limits` is the first
        tree = self._tree = _TREES[plan["mode"]]({**plan, "rlimits": rlimits})
        os.makedirs(f"{self._directory}/logs", exist_ok=True)
        pipes = {}
        ends = []
        for name in ("stdout", "stderr"):
            pipe, end = os.pipe()
            os.set_blocking(pipe, False)
            try:
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE)
            except OSError:
                pass  # the user has many pipes already; slower, nothing else
            pipes[pipe] = capped_log.CappedLog(f"{self._directory}/logs/{name}", limits["log"])
            ends.append(end)
            self._copy_when_ready(pipe, pipes[pipe])
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        doors = self._cgroup.doors() if self._cgroup else []
        try:
            tree.spawn((null, ends[0], ends[1]), doors)
        finally:
            for descriptor in (null, *ends, *doors):
                os.close(descriptor)
        return tree, pipes

    def _copy_when_ready(self, pipe: int, log: capped_log.CappedLog) -> None:
        def copy() -> None:
            if not log.copy(pipe):
                self._unlisten(pipe)  # its end: poll would tell us for ever

        self._listen(pipe, copy)

    def _hold(self, limits: Limits) -> None:
        """Enforce the limits until the leader has ended, and keep an agent going meanwhile."""
        restarts = 0
        restart_due: float | None = None
        while not self._has_ended():
            due = limits.due() if restart_due is None else min(limits.due(), restart_due)
            self._turn(due - time.monotonic())
            if self._has_ended():
                break
            limits.enforce(self._stop_asked)
            if self._agent is None or self._agent.running or restarts >= self._plan["agent_tries"]:
                continue
            if restart_due is None:
                restart_due = time.monotonic() + min(0.1 * 2**restarts, 5.0)
            elif time.monotonic() >= restart_due:
                restarts += 1
                restart_due = None
                self._start_agent("follow")

    def _judge(self, tree: sandbox.Tree, code: int, limits: Limits) -> dict[str, Any]:
        """Say how the user's code ended; logs/exit comes last, for the agent waits for it."""
        plan = self._plan
        failure = tree.failure()
        if failure and code == sandbox.SETUP_FAILED:
            raise sandbox.SandboxError(failure)
        words = limits.words
        if limits.cause is None and code != 0:  # it may have been cut off at the limit
            words = DiskWatch(plan["work"], plan["limits"]["disk"], plan["limits"]["output"]).look(set, 2.0)
        out_of_memory = self._cgroup is not None and self._cgroup.out_of_memory()
        text = f"{code} {self._state['ended']}\n"
        site_files.write(f"{self._directory}/logs", "exit", text, durable=False, mode=0o644)
        self._tell("finishing")
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

    # -- the agent

    def _start_agent(self, verb: str) -> Agent:
        agent = self._agent = Agent(self._plan, verb, self._directory)
        if isinstance(self._tree, sandbox.PlainTree):
            self._tree.agent = agent.pid
        self._state["agent"] = agent.identity

        def ended() -> None:
            self._unlisten(agent.descriptor)
            agent.collect()

        self._listen(agent.descriptor, ended)
        return agent

    def _see_agent_through(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Wait until the agent has handed in what there is; it knows by logs/exit."""
        if "started" not in self._state:
            return outcome
        since = time.monotonic()
        problem = ""
        for attempt in range(self._plan["agent_tries"]):
            agent = self._agent
            if agent is None or not agent.running:
                self._pause(min(0.1 * 2**attempt, 5.0) if attempt else 0)
                agent = self._start_agent("follow")
            self._see_follow_through(agent, since)
            if agent.ended in (0, _FENCED_OFF):
                return outcome
            if agent.ended == _STORE_FAILED:
                break
            problem = f"The agent ended with {agent.ended}."
            if time.monotonic() > self._patience(since):
                break
        if outcome["cause"] != "succeeded":
            return outcome  # the first reason is the one to tell
        if self._stop_asked:
            return ending.outcome("stopped", "The job was stopped on request.", problem)
        if site_files.is_full(self._directory):
            return ending.outcome("out-of-disk", _DISK_FULL, problem, outcome["exit_code"])
        word = self._word_of_agent("stage-out.json")
        return ending.outcome(
            "stage-out",
            word.get("message") or "The job's results could not be stored.",
            word.get("detail") or problem,
            outcome["exit_code"],
            transient=bool(word.get("transient", True)),
        )

    def _patience(self, since: float) -> float:
        """Until when the agent may work on undisturbed, if the user's code ended at `since`."""
        if self._stop_seen is None:
            return since + float(self._plan["agent_limit"])
        return max(since, self._stop_seen) + float(self._plan["limits"]["grace"])

    def _see_follow_through(self, agent: Agent, since: float) -> None:
        asked: float | None = None
        while agent.running:
            self._turn(0.5)
            moment = time.monotonic()
            if asked is None and moment > self._patience(since):
                agent.send(signal.SIGTERM)
                asked = moment
            elif (asked is not None and moment > asked + self._plan["limits"]["grace"] + _AGENT_MARGIN) or (
                agent.stalled_for() > self._plan["agent_stall"]
            ):
                agent.send(signal.SIGKILL)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(left)


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
