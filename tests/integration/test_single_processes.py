"""The processes of a cluster, each started by its own command on one Redis and one object store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up_process import UpProcess, until

COMMANDS = {
    "web": ("web",),
    "start": ("worker", "--site", "local"),
    "stop": ("worker", "--site", "local", "--queue", "stop"),
    "watch": ("watch", "--site", "local"),
    "reconcile": ("reconcile",),
}


class Single(UpProcess):
    """The same questions as to `up`, to a server in single processes."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = directory / "uws.yaml"
        file.write_text(f"data: {directory}/data\nweb: {{port: {port}}}\nredis: {{url: '{redis_url}'}}\n")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("UWS_")}
        self.data = directory / "data"
        self.log = directory / "log"
        self.ready = {"url": f"http://127.0.0.1:{port}"}
        with self.log.open("ab") as log:
            self.processes = {
                name: subprocess.Popen(
                    [sys.executable, "-m", "uws_server.cli", *words, "--config", str(file)],
                    env=clean,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
                for name, words in COMMANDS.items()
            }

    def stop(self) -> dict[str, int]:
        """Ask all to end; their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(30) for name, process in self.processes.items()}


@pytest.fixture
def single(tmp_path: Path, redis_servers: Callable[[str], str]) -> Iterator[Single]:
    processes = Single(tmp_path, redis_servers("redis"))
    try:
        until(processes.healthy, 60, "health")
        yield processes
    finally:
        for process in processes.processes.values():
            process.kill()
            process.wait()


@pytest.mark.covers("3:cli-server")
def test_a_job_runs_and_everything_ends_when_asked_to(single: Single) -> None:
    job = single.submit("print('hello')")
    until(lambda: single.phase(job) == "COMPLETED", 60, "COMPLETED")
    assert "hello" in single.output(job)
    endless = single.submit("import time\nwhile True: time.sleep(1)")
    until(lambda: single.phase(endless) == "EXECUTING", 60, "EXECUTING")
    abort = urllib.request.Request(f"{endless}/phase", b"PHASE=ABORT")
    with urllib.request.urlopen(abort, timeout=30):
        assert single.phase(endless) == "ABORTED"
    attempts = single.data / "sites" / "local" / "attempts"
    until(lambda: not list(attempts.iterdir()), 60, "the end of the attempt")
    assert single.stop() == dict.fromkeys(COMMANDS, 0)
    assert "Traceback" not in single.said()
