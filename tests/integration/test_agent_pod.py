"""The agent as it runs in a pod, as a real process against a real door."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.agent_door import TOKEN, Attempt, DoorDouble, ended, until
from uws_server.domain.wire import PATH

AGENT = """
import os, sys
from pathlib import Path
from runners.agent.pod import Pod
top, control, termination = map(Path, sys.argv[1:])
sys.exit(Pod(top, control, os.environ, termination).run())
"""


@pytest.mark.covers("4:fault-agent")
def test_code_that_ends_at_once_has_its_results_stored(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """The kubelet sends SIGTERM as soon as the code has ended, which may be before the agent goes on."""
    attempt = Attempt(tmp_path / "a", port)
    control, termination = tmp_path / "control", tmp_path / "termination"
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
    until((control / "go").exists)
    attempt.end(how="ended")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0
    assert [result["name"] for result in door.manifests[0]["results"]] == ["results/n"]
    assert door.log("stdout") == b"quick\n"
    assert json.loads(termination.read_bytes())["ended"] == 1700000000000
