"""`uws-server up` as a process of its own, for tests that start, kill and stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.waiting import PATIENCE, until

UP = (sys.executable, "-m", "uws_server.cli", "up")
ROLES = {
    "redis": "redis/socket",
    "web": "gunicorn",
    "start": "--queue start",
    "stop": "--queue stop",
    "watch": "uws_server.cli watch",
    "reconcile": "uws_server.cli reconcile",
}
"""Children of `up` → what is in the command line of each."""


def command_line(pid: int) -> str:
    """The words of a process, '' when there is none or it is a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The processes whose parent this is, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class UpProcess:
    """One `up` on a data directory."""

    def __init__(self, data: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self.log = data.parent / f"{data.name}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("UWS_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*UP, "--data", str(data), "--port", "0", "--json", *options],
                env=clean | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.ready: dict[str, object] = {}

    def wait_until_ready(self) -> UpProcess:
        """Read the ready line; `up` gives up by itself when it cannot start."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"up ended with {self.process.wait(PATIENCE)}: {self.said()}"
        self.ready = json.loads(line)
        expected = set(ROLES) if str(self.data) in str(self.ready["redis"]) else set(ROLES) - {"redis"}
        until(lambda: set(self.roles()) == expected, "every child")
        return self

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.ready["url"])

    def said(self) -> str:
        """Everything on standard error so far."""
        return self.log.read_text()

    def roles(self) -> dict[str, int]:
        """The children that are there now."""
        found = {}
        for pid in children(self.process.pid):
            words = command_line(pid)
            found.update({role: pid for role, sign in ROLES.items() if sign in words})
        return found

    def end(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(seconds)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def healthy(self) -> bool:
        """Whether a request is answered."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def submit(self, code: str) -> str:
        """Run Python code as a job of the service `script`; the job's URL."""
        head = 'Content-Disposition: form-data; name="script"; filename="s.py"'
        body = f"--x\r\n{head}\r\n\r\n{code}\r\n--x--\r\n"
        request = urllib.request.Request(
            f"{self.url}/script/async?{urlencode({'PHASE': 'RUN'})}",
            body.encode(),
            {"Content-Type": "multipart/form-data; boundary=x"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(answer.url)

    def phase(self, job: str) -> str:
        """The job's phase, '' when there is no answer just now. ``job`` may be the URL at an earlier run."""
        path = job.split("/", 3)[3]
        try:
            with urllib.request.urlopen(f"{self.url}/{path}/phase", timeout=30) as answer:
                return bytes(answer.read()).decode()
        except OSError:
            return ""

    def output(self, job: str) -> str:
        """What the job has printed."""
        path = job.split("/", 3)[3]
        with urllib.request.urlopen(f"{self.url}/{path}/results/stdout", timeout=PATIENCE) as answer:
            return bytes(answer.read()).decode()


@contextmanager
def running_up(
    data: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[UpProcess]:
    """One `up`, ready, that is stopped at the end whatever happens."""
    up = UpProcess(data, *options, environment=environment)
    try:
        yield up.wait_until_ready()
    finally:
        if up.process.poll() is None:
            up.end()
