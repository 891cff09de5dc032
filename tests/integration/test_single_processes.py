"""The processes of a cluster, each started by its own command on one Redis and one object store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.up_process import UpProcess, running_up
from tests.waiting import PATIENCE, until

COMMANDS = {
    "web": ("web",),
    "start": ("worker", "--site", "local"),
    "stop": ("worker", "--site", "local", "--queue", "stop"),
    "watch": ("watch", "--site", "local"),
    "reconcile": ("reconcile",),
}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in free]


REQUESTED = 'uws_http_requests_total{method="POST",route="/<service>/async",status="303"}'


class Single(UpProcess):
    """The same questions as to `up`, to a server in single processes, each with a port for its operator."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        port, *operator = free_ports(1 + len(COMMANDS))
        self.operator = dict(zip(COMMANDS, operator, strict=True))
        file = directory / "uws.yaml"
        file.write_text(
            f"data: {directory}/data\nweb: {{port: {port}, workers: 2}}\nredis: {{url: '{redis_url}'}}\n"
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith("UWS_")}
        self.data = directory / "data"
        self.log = directory / "log"
        self.passing = directory / "tmp"
        self.passing.mkdir()
        self.ready = {"url": f"http://127.0.0.1:{port}"}
        with self.log.open("ab") as log:
            self.processes = {
                name: subprocess.Popen(
                    [sys.executable, "-m", "uws_server.cli", *words, "--config", str(file)],
                    env={
                        **clean,
                        "UWS_OPERATOR__PORT": str(self.operator[name]),
                        "TMPDIR": str(self.passing),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
                for name, words in COMMANDS.items()
            }

    def asked(self, name: str, path: str) -> tuple[int, str]:
        """What a process tells its operator."""
        return asked(f"http://127.0.0.1:{self.operator[name]}{path}")

    def is_ready(self, name: str) -> bool:
        """Whether a process says that it can work."""
        return self.asked(name, "/readyz")[0] == 200

    def completed(self, job: str) -> bool:
        """Whether a job is."""
        return self.phase(job) == "COMPLETED"

    def number(self, name: str, sample: str) -> float:
        """One of a process's numbers; 0 while there is none."""
        return number(self.asked(name, "/metrics")[1], sample)

    def stop(self) -> dict[str, int]:
        """Ask all to end; their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(PATIENCE) for name, process in self.processes.items()}


def asked(url: str) -> tuple[int, str]:
    """Status and body; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def number(text: str, sample: str) -> float:
    """The value of a sample among metrics; 0 while there is none."""
    found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == sample]
    return float(found[0]) if found else 0.0


@pytest.fixture
def single(tmp_path: Path, redis_servers: Callable[[str], str]) -> Iterator[Single]:
    processes = Single(tmp_path, redis_servers("redis"))
    try:
        until(processes.healthy, "health")
        yield processes
    finally:
        for process in processes.processes.values():
            process.kill()
            process.wait()


@pytest.mark.covers("3:cli-server")
def test_a_job_runs_and_everything_ends_when_asked_to(single: Single) -> None:
    job = single.submit("print('hello')")
    until(lambda: single.phase(job) == "COMPLETED", "COMPLETED")
    assert "hello" in single.output(job)
    endless = single.submit("import time\nwhile True: time.sleep(1)")
    until(lambda: single.phase(endless) == "EXECUTING", "EXECUTING")
    abort = urllib.request.Request(f"{endless}/phase", b"PHASE=ABORT")
    with urllib.request.urlopen(abort, timeout=PATIENCE):
        assert single.phase(endless) == "ABORTED"
    attempts = single.data / "sites" / "local" / "attempts"
    until(lambda: not list(attempts.iterdir()), "the end of the attempt")
    assert single.stop() == dict.fromkeys(COMMANDS, 0)
    assert "Traceback" not in single.said()


@pytest.mark.covers("4:probes", "4:metrics")
def test_each_process_tells_its_operator_how_it_is_and_what_it_did(single: Single) -> None:
    for name in COMMANDS:
        until(partial(single.is_ready, name), f"{name} is ready")
        assert single.asked(name, "/healthz") == (200, "ok" if name == "web" else "ok\n")
        assert single.asked(name, "/nothing")[0] == 404
    well = "lease: ok; site: ok\n"
    until(lambda: single.asked("watch", "/readyz")[1] == well, "the watcher's word that all is well")

    before = single.number("web", REQUESTED)
    jobs = [single.submit("print('hello')") for _ in range(3)]
    for job in jobs:
        until(partial(single.completed, job), "COMPLETED")
    assert single.number("web", REQUESTED) == before + 3  # by two processes
    assert (
        single.number("web", 'uws_job_phase_changes_total{phase="QUEUED",service="script",site="local"}') == 3
    )
    done = 'uws_job_phase_changes_total{phase="COMPLETED",service="script",site="local"}'
    assert single.number("watch", done) == 3
    assert single.number("watch", 'uws_job_start_seconds_count{service="script",site="local"}') == 3
    assert 0 < single.number("watch", 'uws_job_start_seconds_sum{service="script",site="local"}') < 120
    assert single.number("watch", 'uws_watcher_delay_seconds_count{phase="COMPLETED",site="local"}') == 3
    assert single.number("watch", 'uws_lease_held{lease="watcher:local"}') == 1
    started = 'uws_site_call_seconds_count{operation="start",outcome="ok",site="local"}'
    assert single.number("start", started) == 3
    assert single.number("watch", 'uws_object_store_call_seconds_count{operation="read",outcome="ok"}') >= 3
    assert single.number("reconcile", 'uws_lease_held{lease="reconciler"}') == 1
    assert 'uws_queue_jobs{site="local"} 0.0' in single.asked("reconcile", "/metrics")[1]
    for job in jobs:
        assert f"job {job.rpartition('/')[2]} attempt 1 is COMPLETED\n" in single.said()
    # The public address has none of it.
    assert asked(f"{single.url}/metrics")[0] == 404
    ready = 200, "web: ok; redis: ok; objects: ok"
    until(lambda: asked(f"{single.url}/readyz") == ready, "the server's word that all is well")
    passing = list(single.passing.glob("uws-metrics-*"))
    assert len(passing) == 1
    assert single.stop() == dict.fromkeys(COMMANDS, 0)
    assert not passing[0].exists()


@pytest.mark.covers("4:metrics")
def test_under_up_web_tells_the_numbers_of_all(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with running_up(tmp_path / "data", environment={"UWS_OPERATOR__PORT": str(port)}) as up:
        job = up.submit("print('hello')")
        until(lambda: up.phase(job) == "COMPLETED", "COMPLETED")
        told = asked(f"http://127.0.0.1:{port}/metrics")[1]
        for sample in (
            'uws_job_phase_changes_total{phase="COMPLETED",service="script",site="local"}',
            'uws_site_call_seconds_count{operation="start",outcome="ok",site="local"}',
            'uws_lease_held{lease="reconciler"}',
            REQUESTED,
        ):
            assert number(told, sample) == 1
        assert up.end() == 0
    assert "Traceback" not in up.said()
