"""Run attempts on this machine, each held by a supervisor process that outlives the server.

The attempt's directory is all the state there is: any number of servers may look at it, start,
stop and adopt. Its `lock` says whether the supervisor lives, `started` whether user code may have run.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from runners import ending
from runners.base import Busy, Observation, State, Unreachable, no_doubt
from runners.local import cgroups, launch, site_files, trees
from runners.local.isolation import Isolation, LocalSettings, probe
from runners.local.leftovers import end_leftovers
from runners.local.observing import conclude, has_ended, locked, look
from runners.local.plan import plan, refusal
from runners.local.uids import Uids
from runners.local.view import view
from uws_server.domain.runspec import RunSpec, parameters_file

_NAME = re.compile(r"(?P<job>[0-9][0-9a-v]{25})\.(?P<attempt>[1-9][0-9]{0,8})")
_SPAWNING = 2.0  # seconds that another worker may take between the lock and the supervisor


class LocalRunner:
    """The runner of the local site whose directory is `directory`.

    :raises IsolationError: the isolation the settings ask for does not work here.
    :raises Unreachable: the directory was there once and is not now, as when its disk is not mounted.
    """

    overrun_seconds = 15.0

    def __init__(self, directory: Path, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self.isolation: Isolation = probe(self._settings)
        self._site = directory.resolve()
        self._attempts = self._site / "attempts"
        self._trash = self._site / "trash"
        self._watchers = self._site / site_files.WATCHERS
        # Beside the directory, which may be a disk of its own: without it the site would look as if it knew
        # of no attempt, and all that run there would be taken for lost.
        made = directory.absolute().with_name(f"{directory.name}.made")
        if made.exists() and not self._attempts.is_dir():
            raise Unreachable(
                f"the site's directory {self._site} is not as it was left: is its disk mounted? If what ran "
                f"there is gone for good, remove {made}"
            )
        for path in (self._attempts, self._trash, self._watchers):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.touch()
        self._view = view(self._settings.read_only, (*self._settings.hidden, self._site))
        self._uids = Uids(self._settings.uid_registry, self._settings.uid_first, self._settings.uid_last)
        self._bell: socket.socket | None = None
        self._children: set[int] = set()
        for left in self._trash.iterdir():  # a server was killed while it removed this
            self._clear_away(left)

    def close(self) -> None:
        """Stop listening. Attempts run on."""
        if self._bell is not None:
            name = os.path.basename(self._bell.getsockname())
            self._bell.close()
            self._bell = None
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
            with locked(directory) as lock:
                if lock is None:
                    self._see_launched(directory)
                    return
                if not self._may_launch(directory):
                    return
                confirm()
                problem = refusal(spec)
                if problem:
                    conclude(directory, self._watchers, State.ENDED, ending.outcome("refused", problem))
                    return
                self.prepare(spec, agent_url, token)
                self.launch(directory, lock)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Busy("The site's disk is full.") from error
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                raise Busy(f"The site's machine is full: {error.strerror}.") from error
            if not self._attempts.is_dir():
                raise Busy("The site's directory is not there.") from error
            raise

    def prepare(self, spec: RunSpec, agent_url: str, token: str) -> None:
        """The first half of `start`, with the lock held: everything the supervisor will read."""
        directory = self._directory(spec.job_id, spec.attempt)
        work = directory / "work"
        uid = self._uids.allot(directory) if self.isolation.own_uid else None
        for path in (work, work / "inputs", directory / "root"):
            path.mkdir(mode=0o755, exist_ok=True)
        for name in ("outputs", "tmp", "uws"):
            (work / name).mkdir(mode=0o700, exist_ok=True)
        parameters = parameters_file(spec, str(work))
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
        made = plan(
            spec, directory, self._settings, self.isolation, uid=uid, view=self._view, watchers=self._watchers
        )
        for name, text in (
            (site_files.SPEC, spec.to_json()),
            (site_files.AGENT, agent),
            (site_files.PLAN, json.dumps(made)),
        ):
            site_files.write(str(directory), name, text, durable=False)
        site_files.reserve(str(directory))

    def launch(self, directory: Path, lock: int) -> None:
        """The second half of `start`: spawn the supervisor, which inherits the lock."""
        pid = launch.spawn(directory, lock)
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
        return not has_ended(directory)

    # -- observe

    def observe(self) -> Iterable[Observation]:
        """Every attempt that this site still knows, whoever started it.

        :raises Unreachable: its directory is not there.
        """
        self._reap()
        found = []
        try:
            names = sorted(os.listdir(self._attempts))
        except OSError as error:
            raise Unreachable(f"{self._attempts} cannot be read: {error.strerror}") from error
        for name in names:
            match = _NAME.fullmatch(name)
            if match:
                seen = look(self._attempts / name, match["job"], int(match["attempt"]), self._watchers)
                if seen is not None:
                    found.append(seen)
        return found

    def wait(self, timeout: float) -> None:
        """Return when a supervisor has told of something new, at the latest after `timeout` s."""
        if self._bell is None:
            self._bell = site_files.bind_socket(str(self._watchers), f"{os.getpid()}-{secrets.token_hex(4)}")
            return  # what happened before we listened is new to the caller
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)
        try:
            while self._bell.recv(16):
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
        with locked(directory) as lock:
            if lock is None or not end_leftovers(directory):
                raise ValueError(f"attempt {attempt} of job {job_id} has not ended")
            grave = self._trash / secrets.token_hex(8)
            os.rename(directory, grave)
        self._clear_away(grave)

    def _clear_away(self, grave: Path) -> None:
        """Remove a forgotten attempt; its directory last, as it says what else there is of it."""
        planned = site_files.read(str(grave), site_files.PLAN)
        if planned is not None and planned["cgroup"]:
            group = planned["cgroup"]
            cgroups.Cgroup(group["parent"], planned["name"], group["roots"]).remove()
            cgroups.sweep(group["parent"])
        if planned is not None and planned["uid"] is not None:
            self._uids.release(self._attempts / planned["name"], planned["uid"])
        trees.remove(str(grave))

    # -- small parts

    def _directory(self, job_id: str, attempt: int) -> Path:
        name = f"{job_id}.{attempt}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a job id and attempt: {name}")
        return self._attempts / name

    def _reap(self) -> None:
        """Take the exit codes of supervisors that we happen to be the parent of."""
        for pid in list(self._children):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            except ChildProcessError:
                pass
            self._children.discard(pid)
