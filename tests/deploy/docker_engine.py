"""Debian's Docker engine for as long as tests run: a directory and socket of its own, nothing left."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.node import Failed
from tests.cluster.programs import CACHE, locked
from tests.waiting import PATIENCE, until

PLACE = Path("/var/tmp")
_PREFIX = "uws-docker-"
PROGRAM = "/usr/bin/docker"
"""Debian's own: one that is newer may come first on PATH, and cannot build without a plug-in."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that uses it."""
        return os.environ | {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER": PROGRAM}

    def docker(
        self, *words: str | Path, seconds: float = PATIENCE, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """What a docker command says; raises `Failed` when it fails, unless told not to check."""
        command = [PROGRAM, *(str(word) for word in words)]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def answers(self) -> bool:
        """Whether it takes commands."""
        return self.docker("version", seconds=30, check=False).returncode == 0

    @contextmanager
    def container(self, image: str, *words: str, options: Sequence[str]) -> Iterator[str]:
        """A container that runs in the background; its id. It is removed at the end, running or not."""
        identity = self.docker("run", "--detach", *options, image, *words).stdout.strip()
        try:
            yield identity
        finally:
            self.docker("rm", "--force", "--volumes", identity)


@contextmanager
def running() -> Iterator[Engine]:
    """An engine that ends with the block, and also with this process should that be killed. Needs root."""
    with ExitStack() as stack:
        with locked(CACHE / "docker.lock"):
            _sweep()
            directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=PLACE))
            fcntl.flock(stack.enter_context((directory / "owner").open("w")), fcntl.LOCK_EX)
        log = stack.enter_context((directory / "log").open("wb"))
        command: list[str | Path] = [
            *("setpriv", "--pdeathsig", "TERM", "dockerd"),
            *("--data-root", directory / "data", "--exec-root", directory / "exec"),
            *("--pidfile", directory / "pid", "--host", f"unix://{directory}/socket"),
            *("--storage-driver", "overlay2", "--bridge=none", "--iptables=false", "--ip6tables=false"),
            *("--ip-forward=false", "--ip-masq=false"),
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            engine = Engine(directory / "socket")
            try:
                until(engine.answers, "the Docker engine answers")
            except Exception as error:
                error.add_note((directory / "log").read_text()[-2000:])
                raise
            yield engine
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait(PATIENCE)
                _remove(directory)


def _sweep() -> None:
    """Remove what killed runs left."""
    for directory in PLACE.glob(f"{_PREFIX}*"):
        with (directory / "owner").open("a") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(directory)


def _remove(directory: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        subprocess.run(["umount", mount], check=True, timeout=PATIENCE)
    shutil.rmtree(directory)
