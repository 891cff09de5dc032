"""Runs the wrapper as process 1 of a pid namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from tests.wrapper_build import build_wrapper


class Wrapped:
    """A wrapper with its directories; ``process`` is the helper that made its namespace."""

    def __init__(self, program: Path, top: Path) -> None:
        self._program = program
        self.control = top / "control"
        self.logs = top / "logs"
        self.control.mkdir()
        self.logs.mkdir()

    @contextmanager
    def running(
        self,
        *command: str,
        log_bytes: int = 64 * 1024**2,
        duration: int = 0,
        grace: int = 10,
        environment: dict[str, str] | None = None,
        file_bytes: int | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; whatever still runs at the end is killed."""
        words = [str(word) for word in (self.control, self.logs, log_bytes, duration, grace)]
        limit = [] if file_bytes is None else ["prlimit", f"--fsize={file_bytes}"]
        with subprocess.Popen(
            [*limit, *namespace(), self._program, "run", *words, "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(
        self,
        *command: str,
        log_bytes: int = 64 * 1024**2,
        duration: int = 0,
        grace: int = 10,
        file_bytes: int | None = None,
    ) -> int:
        """Let the program go and wait for its end; the exit code."""
        (self.control / "go").touch()
        with self.running(
            *command, log_bytes=log_bytes, duration=duration, grace=grace, file_bytes=file_bytes
        ) as process:
            return process.wait(PATIENCE)

    def exit(self) -> Sequence[str]:
        """The words of the file `exit`."""
        return (self.logs / "exit").read_text().split()

    def stdout(self) -> bytes:
        """What the program wrote, as it was kept."""
        return (self.logs / "stdout").read_bytes()

    def stderr(self) -> bytes:
        """The same of its error output."""
        return (self.logs / "stderr").read_bytes()


def namespace() -> list[str]:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own, "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(scope="session")
def wrapper_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled wrapper."""
    program = tmp_path_factory.mktemp("wrapper") / "uws-wrapper"
    build_wrapper(program)
    return program


@pytest.fixture
def wrapped(wrapper_program: Path, tmp_path: Path) -> Wrapped:
    """The wrapper with empty directories."""
    return Wrapped(wrapper_program, tmp_path)
