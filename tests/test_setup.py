"""scripts/setup: a second time it does nothing, and what it cannot do it says in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


def _setup(root: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "scripts" / "setup"), *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing was set up."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts" / "setup")
    return tmp_path


@pytest.mark.covers("3:setup")
def test_again_it_does_nothing() -> None:
    first = _setup(ROOT, "--test")
    assert first.returncode == 0, first.stderr
    before = (ROOT / ".venv" / "stamp").stat().st_mtime_ns
    again = _setup(ROOT, "--test")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (ROOT / ".venv" / "stamp").stat().st_mtime_ns == before


@pytest.mark.covers("3:setup")
def test_the_runtime_set_up_is_content_with_that_of_the_tests() -> None:
    assert _setup(ROOT, "--test").returncode == 0
    done = _setup(ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_python_that_is_new_enough_it_says_so(checkout: Path) -> None:
    done = _setup(checkout, PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "setup: needs Python 3.11 or newer; found none (PYTHON=/path/to/python3 names one)"
    ]
    assert not (checkout / ".venv").exists()


def test_an_unknown_option_is_refused(checkout: Path) -> None:
    done = _setup(checkout, "--tset")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["setup: unknown option --tset (there is only --test)"]
