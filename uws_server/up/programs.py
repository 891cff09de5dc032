"""Keep programs running: start them, start again what dies, end them and all their children.

One thread and one asyncio loop, so that forking is safe and a child's parent-death signal, which
follows the thread that made it, follows this process. Each program has a process group of its own:
Ctrl-C in a terminal reaches this process alone, and a group that lost its leader is ended whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from uws_server.exit_codes import EX_CONFIG

STEADY_SECONDS = 10.0
"""A program that lived as long is started again at once when it dies; else it waits longer each time."""

LONGEST_DELAY = 10.0
_TAIL = 40
_READ = 65536
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

Report = Callable[[str, str], None]
"""Takes a program's name and one line."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to keep running. ``descriptors`` are handed down; the environment is exactly what is given.

    ``quiet`` lines are not reported, only kept for the moment the program fails.
    ``orphaned`` is the signal that it gets when this process ends without having stopped it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()
    quiet: bool = False
    orphaned: signal.Signals = signal.SIGKILL


class Keeper:
    """One program and its present process."""

    def __init__(self, program: Program, report: Report) -> None:
        self.program = program
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.failures = 0
        self.exit_code: int | None = None
        self.given_up = asyncio.Event()
        """It said of itself that it would end so each time it is started."""
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._said: dict[IO[bytes], bytearray] = {}  # what is listened to → the beginning of a line
        self._ended = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The present process, None while there is none."""
        return self._process.pid if self._process else None

    async def keep(self) -> None:
        """Run the program, again and again, until `stop`, or until it ends with `EX_CONFIG`."""
        delay = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._start()
            except OSError as error:
                self.exit_code = 127
                self._tell(str(error))
            else:
                await self._ended.wait()
            if self._stopping.is_set():
                return
            self.failures += 1
            if self.exit_code == EX_CONFIG:
                self._tell(f"ended with {_ending(self.exit_code)}")
                self.given_up.set()
                return
            steady = time.monotonic() - started > STEADY_SECONDS
            delay = 0.0 if steady else min(2 * delay + 0.1, LONGEST_DELAY)
            again = f" and is started again in {delay:.1f} s" if delay else " and is started again"
            self._tell(f"ended with {_ending(self.exit_code)}{again}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def stop(self, seconds: float) -> bool:
        """End the program: politely, and after ``seconds`` by force. False when force was needed."""
        self._stopping.set()
        if self._process is None:
            return True
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            self.kill()
            await self._ended.wait()
            return False
        return True

    def kill(self) -> None:
        """End the program and everything in its process group at once."""
        self._stopping.set()
        if self._process is not None:
            _kill_group(self._process.pid)

    def reap(self) -> None:
        """Take note of the end of the present process, if it has ended. To be called after SIGCHLD."""
        process = self._process
        if process is None:
            return
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        _kill_group(process.pid)  # before its number is free again
        self.exit_code = process.wait()
        self._process = None
        self._ended.set()

    def _start(self) -> None:
        program = self.program
        parent = os.getpid()
        orphaned = int(program.orphaned)

        def follow_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, orphaned, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        self._ended.clear()
        self._process = subprocess.Popen(
            program.command,
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=program.descriptors,
            process_group=0,
            preexec_fn=follow_parent,  # noqa: PLW1509  one thread, see above
        )
        stream = self._process.stdout
        if stream is not None:
            os.set_blocking(stream.fileno(), False)
            self._said[stream] = bytearray()
            asyncio.get_running_loop().add_reader(stream, self._read, stream)

    def leave(self) -> None:
        """Listen no longer: report what was said by now, whoever still might say more."""
        for stream in list(self._said):
            self._read(stream)
            self._close(stream)

    def _close(self, stream: IO[bytes]) -> None:
        if self._said.pop(stream, None) is not None:
            asyncio.get_running_loop().remove_reader(stream)
            stream.close()

    def _read(self, stream: IO[bytes]) -> None:
        rest = self._said[stream]
        try:
            content = os.read(stream.fileno(), _READ)
        except BlockingIOError:
            return
        rest += content
        whole, newline, last = rest.rpartition(b"\n")
        if not content or len(last) > _READ:  # the end, or a line that nobody wrote on purpose
            whole, newline, last = rest[:], bytearray(b"\n"), bytearray()
        lines = whole.split(b"\n") if newline else []
        rest[:] = last
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self.tail.append(text)
                if not self.program.quiet:
                    self._report(self.program.name, text)
        if not content:
            self._close(stream)

    def _tell(self, text: str) -> None:
        if self.program.quiet:
            for line in self.tail:
                self._report(self.program.name, line)
            self.tail.clear()
        self._report(self.program.name, text)


class Programs:
    """All programs of one `up`."""

    def __init__(self, report: Report) -> None:
        self.keepers: list[Keeper] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._report = report
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, program: Program) -> Keeper:
        """Begin to keep a program running."""
        keeper = Keeper(program, self._report)
        self.keepers.append(keeper)
        self._tasks.append(asyncio.create_task(keeper.keep(), name=program.name))
        return keeper

    async def stop(self, keepers: Sequence[Keeper], seconds: float) -> None:
        """End some of the programs, all at once, each within ``seconds``."""
        ended = await asyncio.gather(*(keeper.stop(seconds) for keeper in keepers))
        for keeper, politely in zip(keepers, ended, strict=True):
            if not politely:
                self._report(keeper.program.name, f"did not end within {seconds:g} s and was killed")

    def kill(self) -> None:
        """End everything at once."""
        for keeper in self.keepers:
            keeper.kill()

    async def finish(self) -> None:
        """After `stop` or `kill` of all: wait until every process is reaped. Raises what a keeper raised."""
        try:
            await asyncio.gather(*self._tasks)
        finally:
            for keeper in self.keepers:
                keeper.leave()

    def _reap(self) -> None:
        for keeper in self.keepers:
            keeper.reap()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
