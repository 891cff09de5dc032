"""Servers under measurement, started and stopped by process id, and the load on them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
FORM = "light_curve=http%3A%2F%2Farchive.example%2Flc.mjd&min_period=0.1"
SERVICE = "lightcurve"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(holds: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition.

    :raises TimeoutError: it does not come about.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about within {seconds} s")
        time.sleep(0.005)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with everything it has started in its group."""
    started = subprocess.Popen([str(word) for word in command], start_new_session=True, **options)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """Something to put load on. ``web`` are the processes that answer."""

    url: str
    pid: int
    ready_seconds: float

    def web(self) -> list[int]:
        """The processes that answer requests: those that hold the listening socket but their parent."""
        arbiters = [pid for pid in _descendants(self.pid) if "gunicorn" in _words(pid)]
        top = [pid for pid in arbiters if _parent(pid) not in arbiters]
        return [pid for pid in arbiters if pid not in top]


@contextmanager
def reference(directory: Path) -> Iterator[Server]:
    """The bare loop, on a Redis of its own that fsyncs each write."""
    redis_port, port = free_port(), free_port()
    directory.mkdir()
    options = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    began = time.monotonic()
    with process(
        "redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", directory, *options,
        stdout=subprocess.DEVNULL,
    ):  # fmt: skip
        until(lambda: listens(redis_port), "Redis")
        with process(
            BIN / "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{port}",
            "benchmarks.reference:app",
            env={**os.environ, "RPORT": str(redis_port)},
            stderr=subprocess.DEVNULL,
        ) as started:  # fmt: skip
            until(lambda: listens(port), "the reference")
            yield Server(f"http://127.0.0.1:{port}", started.pid, time.monotonic() - began)


@contextmanager
def ours(directory: Path, **settings: str) -> Iterator[Server]:
    """The whole server, as `uws-server up` runs it; ``settings`` are entries of the environment."""
    port = free_port()
    began = time.monotonic()
    command: tuple[str | Path, ...] = (
        sys.executable,
        "-m",
        "uws_server.cli",
        "up",
        "--data",
        directory,
        "--port",
        str(port),
    )
    log = (directory.parent / f"{directory.name}.log").open("wb")
    with log, process(*command, stdout=log, stderr=log, env=os.environ | settings) as started:
        until(lambda: listens(port) and _answers(f"http://127.0.0.1:{port}/readyz"), "the server")
        yield Server(f"http://127.0.0.1:{port}", started.pid, time.monotonic() - began)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wrk(url: str, connections: int, seconds: float, **environment: str) -> dict[str, float]:
    """Load from one thread of wrk; the figures of `load.lua`.

    :raises RuntimeError: requests failed or were answered otherwise than wanted.
    """
    answer = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "-s", HERE / "load.lua", url],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(answer.stdout.decode().strip().splitlines()[-1])
    if figures["wrong"] or figures["faults"]:
        raise RuntimeError(f"{url}: {figures}")
    return figures


def create(url: str, form: str = FORM) -> str:
    """Create a job, and return its address."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    opener = urllib.request.build_opener(Stay)
    try:
        opener.open(url, form.encode(), timeout=30)
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code == 303:
                return str(answer.headers["Location"])
        raise
    raise RuntimeError(f"{url} did not answer 303")


def memory(pids: list[int]) -> int:
    """Resident bytes of some processes together, those shared counted in part (PSS)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def children_with(pid: int, words: str) -> list[int]:
    """Descendants of a process with these words in their command line."""
    return [child for child in _descendants(pid) if words in _words(child)]


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _descendants(pid: int) -> list[int]:
    parents = {int(p.name): _parent(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in parents.items() if parent in fresh]
        found += fresh
    return found
