"""One machine with every process of the server, each started, killed and looked at on its own."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import redis

from runners.local import processes, site_files
from tests.crash.gate import Gate
from tests.redis_servers import PROGRAMS
from tests.waiting import PATIENCE, until
from uws_server.domain.job import Job, Workload
from uws_server.redis_server import find, prepare, wait_until_ready
from uws_server.store.redis import RedisStore

ROOT = Path(__file__).resolve().parents[2]
ROLES: dict[str, tuple[str, ...]] = {
    "web": ("web",),
    "start": ("worker", "--site", "local", "--queue", "start"),
    "stop": ("worker", "--site", "local", "--queue", "stop"),
    "watch": ("watch", "--site", "local"),
    "reconcile": ("reconcile",),
}


class Refused(AssertionError):
    """An answer that is neither success nor a redirect."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body.decode(errors='replace')}")
        self.status = status


class Machine:
    """Redis, web, two workers, watcher and reconciler in one data directory, and the gate for user code."""

    def __init__(self, directory: Path, server: str = "redis", jobs: int = 8) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.gate = Gate()
        program = find(PROGRAMS[server]) if PROGRAMS[server] else find(path=os.devnull)
        self.redis = prepare(self.data, program)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        site = {"jobs": jobs, "cpu": 1000, "memory": "1 TiB", "relist_seconds": 1, "lost_after": 4}
        settings = {
            "data": str(self.data),
            "web": {"port": self.port, "workers": 1},
            "redis": {"url": self.redis.url},
            "templates": {"directories": [str(Path(__file__).with_name("templates"))], "shipped": False},
            "jobs": {"claim_seconds": 2},
            "sites": {"local": site},
        }
        self.settings = directory / "settings.json"
        self.settings.write_text(json.dumps(settings))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ids: set[str] = set()
        self.armed: set[str] = set()
        self.deaths: list[tuple[str, int]] = []  # role and exit code of what ended without being asked to
        self._guard = threading.Lock()
        self.start_redis()
        self.client = redis.Redis.from_url(self.redis.url, decode_responses=True)
        self.store = RedisStore(self.redis.url)
        for role in ROLES:
            self.start(role)
        self.ready()

    # -- processes -----------------------------------------------------------------------------------

    def start_redis(self) -> None:
        self.processes["redis"] = subprocess.Popen(
            self.redis.command, stdout=self._log("redis"), stderr=subprocess.STDOUT
        )
        assert wait_until_ready(self.redis, self.processes["redis"].pid, PATIENCE), "Redis does not start"

    def start(self, role: str, point: str = "", action: str = "kill") -> None:
        """Start the process of a role, which must not be running. ``watch-2`` is a second watcher."""
        old = self.processes.get(role)
        assert old is None or old.poll() is not None
        if point:
            self.armed.add(role)
        else:
            self.armed.discard(role)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("UWS_", "COV_"))
        }
        environment |= {"UWS_CONFIG": str(self.settings), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.processes[role] = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "tests.crash.process",
                point,
                action,
                *ROLES[role.removesuffix("-2")],
            ],
            cwd=ROOT,
            env=environment,
            stdout=self._log(role),
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def _log(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.directory / f"{name}.log", flags, 0o600)

    def kill(self, role: str) -> None:
        """`kill -9`, and wait for it."""
        self.processes[role].kill()
        self.processes[role].wait(PATIENCE)

    def died(self, role: str) -> None:
        """Wait until the process of the role has killed itself at its point, and start it again."""

        def look() -> list[int]:
            self.revive()
            return [code for who, code in self.deaths if who == role]

        codes = until(look, lambda: f"the end of {role}: {self.tail(role)}")
        assert codes == [-signal.SIGKILL], f"{role} ended with {codes}: {self.tail(role)}"
        if role == "web":
            self.ready()

    def replace(self, role: str, point: str = "", action: str = "kill") -> None:
        """End the process of a role politely, and start one that will kill itself at the point."""
        process = self.processes[role]
        if process.poll() is None:
            if role in self.armed:
                process.kill()  # it may have paused itself
            else:
                process.terminate()
            process.wait(PATIENCE)
        self.start(role, point, action)
        if role == "web":
            self.ready()

    def revive(self) -> None:
        """Start again whatever has ended, as `up` would."""
        with self._guard:
            for role, process in list(self.processes.items()):
                if (code := process.poll()) is not None:
                    self.deaths.append((role, code))
                    if role == "redis":
                        self.start_redis()
                    else:
                        self.start(role)

    def paused(self, role: str) -> None:
        """Wait until the process has paused itself at its point."""

        def look() -> bool:
            found = processes.look_up(self.processes[role].pid)
            return found is not None and found.state == "T"

        until(look, lambda: f"the pause of {role}: {self.tail(role)}")

    def resume(self, role: str) -> None:
        self.processes[role].send_signal(signal.SIGCONT)

    def end(self, role: str) -> None:
        """End a process for good."""
        process = self.processes.pop(role)
        self.armed.discard(role)
        process.kill()
        process.wait(PATIENCE)

    def ready(self) -> None:
        def healthy() -> bool:
            try:
                return self.ask("GET", "/readyz")[0] == 200
            except OSError:
                return False
            except http.client.HTTPException:
                return False

        until(healthy, lambda: f"a healthy web: {self.tail('web')}")

    def tail(self, role: str) -> str:
        return (self.directory / f"{role}.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        self.gate.close()
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(PATIENCE)
        self.client.close()
        self.store.close()
        for number, _ in self.supervisors():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    # -- HTTP ----------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """Status, body and Location of one request.

        :raises OSError, http.client.HTTPException: the web died before it answered.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Location", "")
        finally:
            connection.close()

    def insist(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
        also: int = 0,
    ) -> tuple[int, bytes, str]:
        """As `ask`, again and again while there is no answer or 503, reviving what died.

        :raises Refused: the answer is an error, and not the one that is expected, too.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self.ask(method, path, body, headers)
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
                self.revive()
            else:
                if answer[0] != 503:
                    if answer[0] >= 400 and answer[0] != also:
                        raise Refused(answer[0], answer[1])
                    return answer
                if time.monotonic() > deadline:
                    raise Refused(answer[0], answer[1])
                self.revive()
            time.sleep(0.05)

    def submit(self, *, run: bool = True, upload: bool = False, timeout: float = PATIENCE) -> str:
        """A new job, once, however often the web dies meanwhile; its id."""
        fields = {"port": str(self.gate.port)}
        if run:
            fields["PHASE"] = "RUN"
        body = urlencode(fields).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if upload:
            body, headers["Content-Type"] = _multipart(fields)
        headers["Idempotency-Key"] = secrets.token_hex(16)
        status, _, location = self.insist("POST", "/probe/async", body, headers, timeout)
        assert status == 303
        job_id = urlsplit(location).path.rpartition("/")[2]
        self.ids.add(job_id)
        return job_id

    def post(self, job_id: str, resource: str = "", also: int = 0, **fields: str) -> int:
        """Status of a form posted to a resource of a job; see `insist`."""
        path = f"/probe/async/{job_id}" + (f"/{resource}" if resource else "")
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.insist("POST", path, urlencode(fields).encode(), headers, also=also)[0]

    def result(self, job_id: str, name: str = "result") -> str:
        return self.insist("GET", f"/probe/async/{job_id}/results/{name}")[1].decode()

    # -- what is true --------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        assert job is not None, f"job {job_id} is lost"
        return job

    def reached(self, job_id: str, *phases: str) -> Job:
        def look() -> Job | None:
            job = self.job(job_id)
            return job if job.phase in phases else None

        return until(look, lambda: f"{phases}: {self.describe(job_id)}")

    def running(self, job_id: str) -> None:
        """Wait until the job's code has said that it runs."""
        until(lambda: job_id in self.gate.waiting(), lambda: f"the start: {self.describe(job_id)}")

    def settled(self, job_id: str) -> Job:
        """Wait until the job is final and nothing is left to do for it."""

        def look() -> Job | None:
            job = self.job(job_id)
            return job if job.phase.final and job.workload is Workload.NONE else None

        return until(look, lambda: f"the end: {self.describe(job_id)}")

    def describe(self, job_id: str) -> str:
        attempts = [str(path) for path in self.attempts().glob("*")]
        logs = "\n".join(f"--- {role}\n{self.tail(role)}" for role in self.processes)
        return f"{self.store.get(job_id)}\nleft: {attempts}, starts {self.gate.attempts(job_id)}\n{logs}"

    def attempts(self) -> Path:
        return self.data / "sites" / "local" / "attempts"

    def objects(self, job_id: str) -> list[Path]:
        """Everything of the job in the object store."""
        found = []
        for directory, _, names in os.walk(self.data / "objects"):  # which bears directories that vanish
            found += [Path(directory, name) for name in names if job_id in directory or job_id in name]
        return found

    def supervisors(self) -> list[tuple[int, str]]:
        """Pid and attempt of each living supervisor."""
        found = []
        for directory in self.attempts().glob("*"):
            with suppress(OSError, ValueError):
                word = site_files.read(str(directory), site_files.STATE)
                if word and site_files.is_locked(str(directory / site_files.LOCK)):
                    found.append((int(word["supervisor"][0]), directory.name))
        return found

    def leftovers(self) -> list[str]:
        """What is there although no job is in flight."""
        found = []
        use = {field: n for field, n in self.client.hgetall("uws:u:local").items() if n != "0"}
        if use:
            found.append(f"use of the site: {use}")
        indexes = ("a:local", "due:claim", "due:stop:local", "due:deadline", "due:clearance")
        due = {key: self.client.zrange(f"uws:{key}", 0, 9) for key in indexes}
        found += [f"{key}: {ids}" for key, ids in due.items() if ids]
        found += list(self.client.scan_iter("uws:w:*"))
        for place in ("attempts", "trash"):
            found += [str(path) for path in (self.attempts().parent / place).iterdir()]
        found += [f"process {pid}: {line}" for pid, line in _command_lines() if str(self.attempts()) in line]
        registry = Path("/run/uws-uids")
        if registry.is_dir():
            found += [str(link) for link in registry.iterdir() if _leads_to(link, self.attempts())]
        found += [str(path) for path in _cgroups(self.ids)]
        return found

    def quiet(self) -> None:
        """Wait until nothing is left of any job but its record and its objects."""

        def look() -> bool:
            self.revive()
            return not self.leftovers()

        until(look, lambda: f"quiet; there are {self.leftovers()}")

    def disarm(self) -> None:
        """Let everything be as at the beginning, for the next test."""
        for role in [role for role in self.processes if role.endswith("-2")]:
            self.end(role)
        for role in list(self.armed):
            self.replace(role)
        self.revive()
        self.ready()
        self.deaths.clear()
        self.gate.open()


def _multipart(fields: dict[str, str]) -> tuple[bytes, str]:
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"; filename="note.txt"\r\n'
        f"Content-Type: text/plain\r\n\r\nnote\r\n--{boundary}--\r\n"
    )
    return "".join(parts).encode(), f"multipart/form-data; boundary={boundary}"


def _leads_to(link: Path, directory: Path) -> bool:
    try:
        return str(link.readlink()).startswith(str(directory))
    except OSError:
        return False


def _command_lines() -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with suppress(OSError):
                line = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(directory.name), line.decode(errors="replace")


def _cgroups(ids: Iterable[str]) -> list[Path]:
    known = set(ids)
    found: list[Path] = []
    for parent in [*Path("/sys/fs/cgroup").glob("uws"), *Path("/sys/fs/cgroup").glob("*/uws")]:
        with suppress(OSError):
            found += [path for path in parent.iterdir() if path.name.partition(".")[0] in known]
    return found


@contextmanager
def machine(directory: Path, **options: Any) -> Iterator[Machine]:
    """A machine that is closed at the end."""
    made = Machine(directory, **options)
    try:
        yield made
    finally:
        made.close()
