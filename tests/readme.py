"""What the README shows in blocks, run as a reader would, and compared with what it says is printed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: ([\w-]+) -->\n```bash\n(.*?)```", README, re.DOTALL))
PRINTED = dict(re.findall(r"<!-- prints: ([\w-]+) -->\n```text\n(.*?)```", README, re.DOTALL))
ADDRESS = "http://127.0.0.1:8080"


def run_block(name: str, directory: Path, url: str = "", codes: tuple[int, ...] = (0,)) -> str:
    """What a block prints, which has to be what the README says that it prints."""
    script = BLOCKS[name].replace(ADDRESS, url or ADDRESS)
    done = subprocess.run(
        ["bash", "-uo", "pipefail", "-c", script],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("UWS_")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    if name in PRINTED:
        assert re.fullmatch(pattern(PRINTED[name]), done.stdout), done.stdout + done.stderr
    return done.stdout


def pattern(shown: str) -> str:
    """The README's words as they stand; … is anything in a line or, alone, any lines; blanks are some."""
    lines = [
        r"(?:.*\n)*?"
        if line == "…"
        else r" *".join(map(re.escape, line.split())).replace("…", ".*") + r" *\n"
        for line in shown.splitlines()
    ]
    return "".join(lines)


@contextlib.contextmanager
def serving_block(
    name: str, directory: Path, instead: Mapping[str, str] | None = None, **environment: str
) -> Iterator[str]:
    """The URL of the server that a block starts, on a port that is free, until Ctrl-C.

    ``instead`` has what takes the place of words that are each reader's own; each must be there.
    """
    environment = {**os.environ, "UWS_WEB__PORT": "0", "UWS_SERVER": "", **environment}
    script = re.sub(r"(?m)^(?=\S*uws-server up)", "exec ", BLOCKS[name])
    for word, own in (instead or {}).items():
        assert word in script
        script = script.replace(word, own)
    log = directory / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-euc", script],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")  # other programs of the block may say something first
        ready = next(
            (found for line in lines if (found := re.search(r"is ready at (\S+) after", line))), None
        )
        assert ready, log.read_text()
        yield ready[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory in which the README's `.venv/bin` is the one of these tests."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path
