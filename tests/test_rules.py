"""The rules of the suite bite: a skip fails in CI, an address off this machine is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]

_SKIPS = {
    "mark": "import pytest\n\n@pytest.mark.skip(reason='no')\ndef test_it(): pass\n",
    "call": "import pytest\n\ndef test_it(): pytest.skip('no')\n",
    "module": "import pytest\n\npytest.importorskip('no_such_module')\n\ndef test_it(): pass\n",
}


def _run_pytest(folder: Path, source: str, ci: str) -> int:
    (folder / "test_sample.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.plugins.rules", "-c", os.devnull]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode


@pytest.mark.covers("3:no-skips")
@pytest.mark.parametrize("way", sorted(_SKIPS))
def test_a_skip_fails_in_ci(tmp_path: Path, way: str) -> None:
    assert _run_pytest(tmp_path, _SKIPS[way], ci="true") not in {
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    }


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    assert _run_pytest(tmp_path, _SKIPS["mark"], ci="") == pytest.ExitCode.OK


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_no_test_reaches_another_machine(host: str) -> None:
    with pytest.raises(PermissionError, match="this machine only"):
        socket.create_connection((host, 9), timeout=5)


def test_loopback_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()
