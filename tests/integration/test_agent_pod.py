"""The agent as it runs in a pod, as a real process against a real door."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.agent_door import TOKEN, Attempt, DoorDouble, ended, kill
from tests.waiting import until
from uws_server.domain.wire import PATH

AGENT = """
import os, sys
from pathlib import Path
from runners.agent.pod import Pod
top, control, termination = map(Path, sys.argv[1:])
sys.exit(Pod(top, control, os.environ, termination).run())
"""


@contextmanager
def agent(attempt: Attempt, port: int) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The agent of a pod that has begun: its process, and where its last word comes."""
    control, termination = attempt.top / "control", attempt.top / "termination"
    control.mkdir()
    (attempt.outputs / "n").write_bytes(b"n")
    (attempt.logs / "stdout").write_bytes(b"quick\n")
    (attempt.logs / "stderr").touch()
    given = {
        "UWS_AGENT_URL": f"http://127.0.0.1:{port}{PATH}",
        "UWS_AGENT_TOKEN": TOKEN,
        "UWS_POD": "pod",
        "UWS_SPEC_SHA256": "",  # it has begun already
        "UWS_WORK": "/uws",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(attempt.top), str(control), str(termination)],
        env=os.environ | given,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until((control / "go").exists, "the word to go")
        yield process, termination
    finally:
        kill(process)


@pytest.mark.covers("4:fault-agent")
def test_code_that_ends_at_once_has_its_results_stored(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """The kubelet sends SIGTERM as soon as the code has ended, which may be before the agent goes on."""
    attempt = Attempt(tmp_path / "a", port)
    with agent(attempt, port) as (process, termination):
        attempt.end(how="ended")
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 0
    assert [result["name"] for result in door.manifests[0]["results"]] == ["results/n"]
    assert door.log("stdout") == b"quick\n"
    assert json.loads(termination.read_bytes())["ended"] == 1700000000000


@pytest.mark.covers("4:fault-agent")
def test_an_agent_that_is_done_waits_for_its_sigterm(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """The kubelet starts again whoever leaves earlier, and its SIGTERM would meet that one unprepared."""
    attempt = Attempt(tmp_path / "a", port)
    with agent(attempt, port) as (process, termination):
        attempt.end(how="ended")
        until(termination.exists, "its last word")
        until(lambda: process.poll() is not None or waits_for_a_signal(process.pid), "its end, or its wait")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 0
    assert len(door.manifests) == 1


def waits_for_a_signal(pid: int) -> bool:
    """Whether a process sleeps until a signal comes."""
    return "sigtimedwait" in Path(f"/proc/{pid}/wchan").read_text()
