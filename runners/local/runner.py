"""Run attempts on this machine, each held by a supervisor process that outlives the server.

The attempt's directory is all the state there is: any number of servers may look at it, start,
stop and adopt. Its `lock` says whether the supervisor lives, `started` whether user code may have run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import select
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners.base import Busy, Cause, Observation, Outcome, State, no_doubt
from runners.local import cgroups, ending, processes, site_files, trees
from runners.local.isolation import Isolation, IsolationError, LocalSettings, package_root, probe, view
from uws_server.domain.runspec import RunSpec, located

__all__ = ["Isolation", "IsolationError", "LocalRunner", "LocalSettings", "probe"]

_NAME = re.compile(r"(?P<job>[0-9][0-9a-v]{25})\.(?P<attempt>[1-9][0-9]{0,8})")
_PLACEHOLDER = re.compile(r"\{(inputs|outputs|parameters|python)\}")
_PASSED_ON = re.compile(
    r"PATH|LD_LIBRARY_PATH|HOME|LANG|LC_.*|TZ|PYTHONPATH|VIRTUAL_ENV|SSL_CERT_(FILE|DIR)|(https?|all|no)_proxy",
    re.IGNORECASE,
)
_NEEDED_BY_PYTHON = ("PATH", "LANG", "LD_LIBRARY_PATH")
_SCRATCH = 1024**3  # most bytes of /tmp and of /dev/shm, which are memory
_LONGEST_ARGUMENT = 128 * 1024 - 1  # bytes, by the kernel
_LONGEST_COMMAND = 1024**2
_BOOT = (  # -I -S: nothing of the user's environment, and no time for site-packages
    "-I",
    "-S",
    "-c",
    "import sys; sys.path.append(sys.argv[1]); from runners.local.supervisor import main; main()",
)
_LOCK_DESCRIPTOR = 3
_SPAWNING = 2.0  # seconds that another worker may take between the lock and the supervisor
_KILLING = 2.0  # seconds one look spends at most on ending what a dead supervisor left


class LocalRunner:
    """The runner of the local site whose directory is `directory`.

    :raises IsolationError: the isolation the settings ask for does not work here.
    """

    def __init__(self, directory: Path, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self.isolation: Isolation = probe(self._settings)
        self._site = directory.resolve()
        self._attempts = self._site / "attempts"
        self._trash = self._site / "trash"
        self._watchers = self._site / site_files.WATCHERS
        for path in (self._attempts, self._trash, self._watchers):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._view = view(self._settings, (str(self._site),))
        self._door: socket.socket | None = None
        self._children: set[int] = set()
        for left in self._trash.iterdir():  # a server was killed while it removed this
            self._clear_away(left)

    def close(self) -> None:
        """Stop listening. Attempts run on."""
        if self._door is not None:
            name = os.path.basename(self._door.getsockname())
            self._door.close()
            self._door = None
            (self._watchers / name).unlink(missing_ok=True)
        self._reap()

    # -- start

    def start(
        self, spec: RunSpec, agent_url: str, token: str, confirm: Callable[[], None] = no_doubt
    ) -> None:
        """See to it that this attempt runs, or has run: its user code starts at most once.

        :raises Busy: the machine has no room for it just now.
        """
        self._reap()
        directory = self._directory(spec.job_id, spec.attempt)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            with self._locked(directory) as lock:
                if lock is None:
                    self._see_launched(directory)
                    return
                if not self._may_launch(directory):
                    return
                confirm()
                problem = refusal(spec)
                if problem:
                    self._conclude(directory, State.ENDED, ending.outcome("refused", problem))
                    return
                self.prepare(spec, agent_url, token)
                self.launch(directory, lock)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Busy("The site's disk is full.") from error
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise Busy(f"The site's machine is full: {error.strerror}.") from error
            raise

    def prepare(self, spec: RunSpec, agent_url: str, token: str) -> None:
        """The first half of `start`, with the lock held: everything the supervisor will read."""
        directory = self._directory(spec.job_id, spec.attempt)
        work = directory / "work"
        uid = self._allot_uid(directory) if self.isolation.mode == "namespaces" else None
        for path in (work, work / "inputs", directory / "root"):
            path.mkdir(mode=0o755, exist_ok=True)
        for name in ("outputs", "tmp", "uws"):
            (work / name).mkdir(mode=0o700, exist_ok=True)
        parameters = json.dumps(located(spec.parameters, f"{work}/inputs", f"{work}/outputs"))
        site_files.write(str(work / "uws"), "parameters.json", parameters, durable=False, mode=0o644)
        if uid is not None:
            for name in ("outputs", "tmp", "uws"):
                os.chown(work / name, uid, uid, follow_symlinks=False)
        access = {
            "file_inputs": [str(path) for path in self._settings.file_inputs],
            "file_hidden": [str(path) for path in self._settings.hidden],
            "deny_networks": self._settings.deny_networks,
        }
        agent = json.dumps({"url": agent_url, "token": token, **access})
        plan = json.dumps(self._plan(spec, directory, uid))
        for name, text in (
            (site_files.SPEC, spec.to_json()),
            (site_files.AGENT, agent),
            (site_files.PLAN, plan),
        ):
            site_files.write(str(directory), name, text, durable=False)
        site_files.reserve(str(directory))

    def launch(self, directory: Path, lock: int) -> None:
        """The second half of `start`: spawn the supervisor, which inherits the lock."""
        held = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, _LOCK_DESCRIPTOR + 1)
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *_BOOT, package_root(), str(directory), str(_LOCK_DESCRIPTOR)],
                {name: os.environ[name] for name in _NEEDED_BY_PYTHON if name in os.environ},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (
                        os.POSIX_SPAWN_OPEN,
                        2,
                        str(directory / "supervisor.log"),
                        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                        0o600,
                    ),
                    (os.POSIX_SPAWN_DUP2, held, _LOCK_DESCRIPTOR),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT),
            )
        finally:
            os.close(held)
        self._children.add(pid)
        site_files.write(str(directory), site_files.LAUNCHED, "", durable=True)
        site_files.sync(str(self._attempts))

    @staticmethod
    def _see_launched(directory: Path) -> None:
        """Wait for whoever holds the lock: a supervisor, or another worker that is about to spawn one."""
        deadline = time.monotonic() + _SPAWNING
        while not (directory / site_files.LAUNCHED).exists():
            if time.monotonic() > deadline:
                raise Busy("Another worker has begun to start it.")
            time.sleep(0.005)

    @staticmethod
    def _may_launch(directory: Path) -> bool:
        """With the lock held: whether user code has not run and is still wanted."""
        if any((directory / name).exists() for name in (site_files.STARTED, site_files.STOP)):
            return False
        word = site_files.read(str(directory), site_files.STATE)
        return word is None or word["state"] not in (State.ENDED.value, State.LOST.value)

    def _plan(self, spec: RunSpec, directory: Path, uid: int | None) -> dict[str, Any]:
        settings, isolation, resources = self._settings, self.isolation, spec.resources
        work = str(directory / "work")
        places = {
            "inputs": f"{work}/inputs",
            "outputs": f"{work}/outputs",
            "parameters": f"{work}/uws/parameters.json",
            "python": sys.executable,
        }
        groups = dict(isolation.cgroup_roots)
        return {
            "name": directory.name,
            "mode": isolation.mode,
            "argv": [substitute(item, places) for item in spec.command],
            "environment": environment(spec, work),
            "cwd": places["outputs"],
            "work": work,
            "root": str(directory / "root"),
            "view": self._view,
            "network": settings.network,
            "scratch": min(_SCRATCH, resources.memory_bytes),
            "uid": uid,
            "gid": uid,
            "bubblewrap": isolation.bubblewrap,
            "limits": {
                "duration": spec.limits.duration,
                "grace": spec.limits.grace,
                "log": spec.limits.log_bytes,
                "output": spec.limits.output_bytes,
                "disk": resources.disk_bytes,
                "memory": resources.memory_bytes,
                "processes": resources.processes,
                "cpu_milli": resources.cpu_milli,
            },
            "stage_in": bool(spec.inputs),
            "agent": list(settings.agent),
            "agent_environment": {
                name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)
            },
            "agent_tries": settings.agent_tries,
            "agent_stall": settings.agent_stall,
            "agent_limit": settings.agent_limit,
            "watchers": str(self._watchers),
            "cgroup": {"parent": settings.cgroup, "roots": groups} if groups else None,
        }

    # -- uids

    def _allot_uid(self, directory: Path) -> int:
        """A uid that no living attempt on this machine has; the same again for the same attempt."""
        registry, first = self._settings.uid_registry, self._settings.uid_first
        count = self._settings.uid_last - first + 1
        offset = zlib.crc32(os.fsencode(directory))
        with self._registry():
            for step in range(count):
                uid = first + (offset + step) % count
                link = registry / str(uid)
                try:
                    holder = os.readlink(link)
                except FileNotFoundError:
                    os.symlink(directory, link)
                    return uid
                if holder == str(directory):
                    return uid
                if not os.path.exists(holder):  # forgotten, by a server killed before it said so
                    os.unlink(link)
                    os.symlink(directory, link)
                    return uid
        raise Busy(f"All {count} user ids of the site are taken.")

    def _release_uid(self, directory: Path, uid: int) -> None:
        link = self._settings.uid_registry / str(uid)
        with self._registry():
            try:
                if os.readlink(link) == str(directory):
                    link.unlink()
            except FileNotFoundError:
                pass

    @contextmanager
    def _registry(self) -> Iterator[None]:
        """The uid registry, for this process alone."""
        registry = self._settings.uid_registry
        registry.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(registry / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # -- observe

    def observe(self) -> Iterable[Observation]:
        """Every attempt that this site still knows, whoever started it."""
        self._reap()
        found = []
        for name in sorted(os.listdir(self._attempts)):
            match = _NAME.fullmatch(name)
            if match:
                seen = self._look(self._attempts / name, match["job"], int(match["attempt"]))
                if seen is not None:
                    found.append(seen)
        return found

    def _look(self, directory: Path, job_id: str, attempt: int) -> Observation | None:
        try:
            alive = site_files.is_locked(str(directory / site_files.LOCK))
            word = site_files.read(str(directory), site_files.STATE)
            final = word is not None and word["state"] in (State.ENDED.value, State.LOST.value)
            if not alive and not final:
                word = self._bury(directory) or site_files.read(str(directory), site_files.STATE)
                final = word is not None and word["state"] in (State.ENDED.value, State.LOST.value)
        except NotADirectoryError:
            return None
        if word is None:
            if (directory / site_files.LAUNCHED).exists():
                return Observation(job_id, attempt, State.STAGING, "starting")
            # Its starter is at work, or died before there was a supervisor: then it is to be started again.
            return Observation(job_id, attempt, State.UNSTARTED) if directory.is_dir() else None
        state = State(word["state"])
        reason = word.get("reason", "")
        if final and alive:  # it has said its last word and is just leaving
            state, reason = State.FINISHING, "ending"
        outcome = word.get("outcome") if state in (State.ENDED, State.LOST) else None
        return Observation(
            job_id,
            attempt,
            state,
            reason or {State.STAGING: "staging in", State.FINISHING: "storing results"}.get(state, ""),
            word.get("started"),
            word.get("ended"),
            Outcome(**{**outcome, "cause": Cause(outcome["cause"])}) if outcome else None,
        )

    def _bury(self, directory: Path) -> dict[str, Any] | None:
        """The last word on an attempt whose supervisor is not there; None while there is none.

        With the lock held, so that nobody starts it meanwhile, and kept, so that nobody does later.
        """
        started = (directory / site_files.STARTED).exists()
        launched = (directory / site_files.LAUNCHED).exists()
        stopped = (directory / site_files.STOP).exists()
        if not (started or launched or stopped):
            return None  # its starter died before it could spawn, or is just about to: start again
        with self._locked(directory) as lock:
            if lock is None:
                return None
            word = site_files.read(str(directory), site_files.STATE)
            if word is not None and word["state"] in (State.ENDED.value, State.LOST.value):
                return word  # it spoke between our looks
            if not end_leftovers(directory):
                return {**(word or {}), "state": "finishing", "reason": "its processes are being ended"}
            if stopped and not (directory / site_files.STARTED).exists():
                return self._conclude(directory, State.ENDED, ending.outcome("stopped", ending.NEVER_STARTED))
            words = "The job was broken off: its supervisor process ended."
            return self._conclude(directory, State.LOST, ending.outcome("lost", words, transient=True))

    def _conclude(self, directory: Path, state: State, outcome: dict[str, Any]) -> dict[str, Any]:
        """Write the last word, in a dead or never born supervisor's place."""
        site_files.give_back(str(directory))  # whoever held it has ended, and the disk may be full
        word = site_files.read(str(directory), site_files.STATE) or {}
        word.update(state=state.value, outcome=outcome)
        if word.get("started"):
            word.setdefault("ended", time.time_ns() // 1_000_000)
        site_files.write(str(directory), site_files.STATE, json.dumps(word), durable=True)
        site_files.sync(str(self._attempts))
        site_files.ring(str(self._watchers))
        return word

    def wait(self, timeout: float) -> None:
        """Return when a supervisor has told of something new, at the latest after `timeout` s."""
        if self._door is None:
            self._door = site_files.bind_socket(str(self._watchers), f"{os.getpid()}-{secrets.token_hex(4)}")
            return  # what happened before we listened is new to the caller
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)
        try:
            while self._door.recv(16):
                pass
        except BlockingIOError:
            pass

    # -- stop and forget

    def stop(self, job_id: str, attempt: int) -> None:
        """Ask for the end of the attempt; one that has not started never will."""
        directory = self._directory(job_id, attempt)
        directory.mkdir(mode=0o700, exist_ok=True)
        site_files.write(str(directory), site_files.STOP, "", durable=True)
        site_files.sync(str(self._attempts))
        site_files.ring(str(directory), site_files.WAKE)

    def forget(self, job_id: str, attempt: int) -> None:
        """Remove what the site keeps of an ENDED or LOST attempt.

        :raises ValueError: it has not ended.
        """
        directory = self._directory(job_id, attempt)
        if not directory.is_dir():
            return
        with self._locked(directory) as lock:
            if lock is None or not end_leftovers(directory):
                raise ValueError(f"attempt {attempt} of job {job_id} has not ended")
            grave = self._trash / secrets.token_hex(8)
            os.rename(directory, grave)
        self._clear_away(grave)

    def _clear_away(self, grave: Path) -> None:
        """Remove a forgotten attempt; its directory last, as it says what else there is of it."""
        plan = site_files.read(str(grave), site_files.PLAN)
        if plan is not None and plan["cgroup"]:
            cgroups.Cgroup(plan["cgroup"]["parent"], plan["name"], plan["cgroup"]["roots"]).remove()
            cgroups.sweep(plan["cgroup"]["parent"])
        if plan is not None and plan["uid"] is not None:
            self._release_uid(self._attempts / plan["name"], plan["uid"])
        trees.remove(str(grave))

    # -- small parts

    def _directory(self, job_id: str, attempt: int) -> Path:
        name = f"{job_id}.{attempt}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a job id and attempt: {name}")
        return self._attempts / name

    @contextmanager
    def _locked(self, directory: Path) -> Iterator[int | None]:
        """The descriptor that holds the attempt's lock, None when somebody else does."""
        descriptor = os.open(directory / site_files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor if site_files.lock(descriptor) else None
        finally:
            os.close(descriptor)

    def _reap(self) -> None:
        """Take the exit codes of supervisors that we happen to be the parent of."""
        for pid in list(self._children):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            except ChildProcessError:
                pass
            self._children.discard(pid)


def refusal(spec: RunSpec) -> str:
    """Why this site can never run this run spec, in one sentence; '' when it can."""
    if spec.kind == "container" or spec.image is not None:
        return "This site runs programs and notebooks, not container images."
    if not spec.command:
        return "The job names no command to run."
    if spec.resources.gpu:
        return "This site has no GPU to give to a job."
    texts = [*spec.command, *(f"{name}={value}" for name, value in spec.environment.items())]
    sizes = [len(os.fsencode(text)) for text in texts]
    if max(sizes) > _LONGEST_ARGUMENT or sum(sizes) > _LONGEST_COMMAND:
        return "The job's command and environment are too long."
    if any("\0" in text for text in texts):
        return "The job's command or environment holds a NUL character."
    if any(not name or "=" in name for name in spec.environment):
        return "The job's environment holds a name that is none."
    return ""


def substitute(item: str, places: dict[str, str]) -> str:
    """Put real paths for ``{inputs}``, ``{outputs}``, ``{parameters}`` and ``{python}``."""
    return _PLACEHOLDER.sub(lambda match: places[match[1]], item)


def environment(spec: RunSpec, work: str) -> dict[str, str]:
    """The whole environment of the user's process; the run spec has the last word."""
    own = located(spec.environment, f"{work}/inputs", f"{work}/outputs")
    return {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{work}/tmp",
        "TMPDIR": f"{work}/tmp",
        "LANG": "C.UTF-8",
        "UWS_JOB_ID": spec.job_id,
        "UWS_ATTEMPT": str(spec.attempt),
        "UWS_INPUTS": f"{work}/inputs",
        "UWS_OUTPUTS": f"{work}/outputs",
        "UWS_PARAMETERS": f"{work}/uws/parameters.json",
        "UWS_PROGRESS": f"{work}/uws/progress",
        "UWS_ERROR": f"{work}/uws/error.json",
        **own,
    }


def end_leftovers(directory: Path) -> bool:
    """Kill what a dead supervisor left of the attempt; True when nothing of it is left.

    The kernel has done so already, unless user code ran without isolation. Nothing is killed by
    its bare pid.
    """
    mark = site_files.read(str(directory), site_files.STARTED)
    plan = site_files.read(str(directory), site_files.PLAN)
    if plan is None or (mark is not None and mark["boot"] != processes.boot_id()):
        return True
    leaders = mark["leaders"] if mark is not None else []
    agent = (site_files.read(str(directory), site_files.STATE) or {}).get("agent")
    group = None
    if plan["cgroup"]:
        group = cgroups.Cgroup(plan["cgroup"]["parent"], plan["name"], plan["cgroup"]["roots"])
    sign = os.fsencode(f"UWS_OUTPUTS={plan['environment']['UWS_OUTPUTS']}")
    deadline = time.monotonic() + _KILLING
    while True:
        left = [identity for identity in leaders if processes.lives(identity)]
        if group is not None:
            members = [processes.identify(pid) for pid in group.members()]
            left += [identity for identity in members if identity[1] and identity[0] in group.members()]
        if plan["mode"] == "none":
            left += processes.marked(sign)
        elif plan["mode"] == "bubblewrap":
            # bwrap that was interrupted before it had tied its own processes together; code is not in it.
            left += processes.commanded(os.fsencode(f"{plan['work']}/outputs"))
        if agent and processes.lives(agent):
            left.append(agent)
        if not left:
            return True
        if time.monotonic() > deadline:
            return False
        for identity in left:
            processes.kill(identity)
        time.sleep(0.005)  # between two looks at what the kernel is taking away
