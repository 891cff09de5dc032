"""What `up` runs, in which order, and what it says about it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from uws_server import redis_server
from uws_server.exit_codes import EX_CONFIG
from uws_server.listening import CannotListen, bracketed, listen, reached
from uws_server.queue.base import Work
from uws_server.redis_server import RedisServer
from uws_server.settings import Settings
from uws_server.site_offers import measured
from uws_server.up.programs import Keeper, Program, Programs

START_SECONDS = 60.0
STOP_SECONDS = 15.0
REDIS_STOP_SECONDS = 30.0

_RESOLVED = Path("run", "settings.json")  # in the data directory


class CannotStart(Exception):
    """`up` gives up; the message says why, ``code`` is what it ends with."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Ready:
    """What is known once the first request was answered. ``seconds`` since the start of `up`."""

    url: str
    data: str
    pid: int
    redis: str
    isolation: tuple[str, ...]
    seconds: float


@contextlib.contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Refuse a second `up` on a data directory.

    :raises CannotStart: there is one, or the directory cannot be made or written.
    """
    try:
        # Nobody else's business; the operator may widen it.
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"the data directory {data} cannot be made: {error.strerror}; --data names another"
        raise CannotStart(sentence) from error
    try:
        lock = (data / "up.lock").open("a+", encoding="utf-8")
    except OSError as error:
        sentence = f"the data directory {data} cannot be written: {error.strerror}; --data names another"
        raise CannotStart(sentence) from error
    with lock as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            pid = stream.read().strip()
            who = f", process {pid}," if pid else ""
            raise CannotStart(f"another `uws-server up`{who} already uses {data}") from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def running(data: Path) -> Path | None:
    """The settings of the `up` that runs on a data directory now, None when there is none."""
    try:
        with (data / "up.lock").open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return data / _RESOLVED
    except OSError:
        pass
    return None


class Up:
    """One run of everything, from start to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        isolation: Callable[[], tuple[str, ...]],
        on_ready: Callable[[Ready], None],
        verbose: bool = False,
    ) -> None:
        self._settings = settings
        self._isolation = isolation
        self._on_ready = on_ready
        self._verbose = verbose
        self._begin = time.monotonic()
        self._interrupts = 0

    def run(self) -> int:
        """Run until SIGINT or SIGTERM; returns the exit code.

        :raises CannotStart: something needed does not start.
        :raises CannotListen: an address cannot be had.
        :raises NoRedis: there is no Redis to run.
        """
        data = self._settings.data.absolute()
        with contextlib.ExitStack() as self._opened, only_one(data), self._listen(data) as listener:
            return asyncio.run(self._main(data, listener))

    def _listen(self, data: Path) -> socket.socket:
        """On the port asked for; where any will do, on that of the last run, if it is still free.

        Agents of jobs that run since then know no other. And it is made here, so that a restarted web server
        loses no connection.
        """
        web = self._settings.web
        if not web.port:
            with contextlib.suppress(CannotListen, OSError, ValueError, LookupError):
                before = json.loads((data / _RESOLVED).read_text(encoding="utf-8"))
                return listen(web.host, before["web"]["port"])
        return listen(web.host, web.port)

    async def _main(self, data: Path, listener: socket.socket) -> int:
        self._programs = Programs(self._report)
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        redis: Keeper | None = None
        server: RedisServer | None = None
        try:
            settings = self._settings
            if not settings.redis.url:
                server = redis_server.prepare(data, redis_server.find(settings.redis.program))
                redis = await self._start_redis(server)
            if not self._stop.is_set():
                await self._start_others(self._resolve(data, listener, server), listener)
        finally:
            await self._end(redis)
            if server is not None:
                server.leave_no_socket()
        return 130 if self._interrupts > 1 else 0

    async def _start_redis(self, server: RedisServer) -> Keeper:
        lock = redis_server.lock(server)  # held by us, and by each Redis that we start
        program = Program(
            "redis",
            server.command,
            _environment(),
            descriptors=(lock,),
            quiet=not self._verbose,
            orphaned=signal.SIGTERM,
        )
        keeper = self._programs.start(program)

        async def answers() -> bool:
            return server.answers()

        await self._wait_for(answers, [keeper])
        return keeper

    def _resolve(self, data: Path, listener: socket.socket, server: RedisServer | None) -> Path:
        """Write down the settings as they have turned out, for all children alike."""
        settings = self._settings
        web = settings.web.model_copy(update={"port": listener.getsockname()[1]})
        redis = settings.redis.model_copy(update={"url": server.url} if server else {})
        sites = {name: measured(site) for name, site in settings.sites.items()}
        resolved = {"data": data, "web": web, "redis": redis, "sites": sites}
        self._settings = settings.model_copy(update=resolved)
        self._settings.secret()
        path = data / _RESOLVED
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o700)
        path.write_text(self._settings.to_json(), encoding="utf-8")
        return path

    async def _start_others(self, settings: Path, listener: socket.socket) -> None:
        environment = {**_environment(), "UWS_CONFIG": str(settings), "PYTHONUNBUFFERED": "1"}
        operator = None
        if port := self._settings.operator.port:
            operator = self._opened.enter_context(listen(self._settings.operator.host, port, "operator.port"))
            # web tells the numbers of all; those of the last run are over.
            numbers = settings.with_name("metrics")
            shutil.rmtree(numbers, ignore_errors=True)
            numbers.mkdir(mode=0o700)
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(numbers)

        def start(name: str, *words: str, descriptors: tuple[int, ...] = ()) -> Keeper:
            command = (sys.executable, "-P", "-m", "uws_server.cli", *words)
            return self._programs.start(Program(name, command, environment, descriptors))

        descriptors = [listener.fileno()]
        if operator is not None:
            descriptors.append(operator.fileno())
        words = [word for each in descriptors for word in ("--descriptor", str(each))]
        web = start("web", "web", *words, descriptors=tuple(descriptors))
        isolation = self._isolation()
        await self._wait_for(self._healthy, [web])
        if self._stop.is_set():
            return
        # Each of these reads as many modules as web does; side by side they would only make web late.
        for site, settled in self._settings.sites.items():
            for work, count in ((Work.START, settled.start_workers), (Work.STOP, settled.stop_workers)):
                for number in range(count):
                    name = f"{work.value}-{site}" + (f"-{number + 1}" if count > 1 else "")
                    start(name, "worker", "--site", site, "--queue", work.value)
            start(f"watch-{site}", "watch", "--site", site, "--holder", "up")
        # There is one `up` and one of each of these, and a new one is started when the old one is
        # reaped: under one name, a killed one's lease need not lapse first.
        start("reconcile", "reconcile", "--holder", "up")
        self._on_ready(self._ready(isolation))
        while not self._stop.is_set():
            for keeper in self._programs.keepers:
                _see_that_it_starts(keeper)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1)

    def _ready(self, isolation: tuple[str, ...]) -> Ready:
        return Ready(
            url=self._settings.web.base_url or self._settings.own_url,
            data=str(self._settings.data),
            pid=os.getpid(),
            redis=self._settings.redis.url,
            isolation=isolation,
            seconds=round(time.monotonic() - self._begin, 3),
        )

    async def _healthy(self) -> bool:
        """Whether web says that it can do its work."""
        host, port = reached(self._settings.web.host), self._settings.web.port
        request = f"GET /readyz HTTP/1.1\r\nHost: {bracketed(host)}:{port}\r\nConnection: close\r\n\r\n"
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(request.encode())
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return status.split(b" ")[1:2] == [b"200"]

    async def _wait_for(self, holds: Callable[[], Awaitable[bool]], keepers: list[Keeper]) -> None:
        """Poll until something holds, or we are to stop.

        :raises CannotStart: one of the programs keeps dying, or it takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._stop.is_set():
            if await self._unless_stopped(holds(), keepers):
                return
            for keeper in keepers:
                _see_that_it_starts(keeper)
                if keeper.failures >= 3:
                    raise _does_not_start(keeper)
            if time.monotonic() > deadline:
                raise CannotStart(f"not ready after {START_SECONDS:g} s")
            await asyncio.sleep(0.01)

    async def _unless_stopped(self, question: Awaitable[bool], keepers: list[Keeper]) -> bool:
        """The answer; False as soon as we are to stop, or a program is given up and will not answer."""
        asked = asyncio.ensure_future(question)
        others = [
            asyncio.ensure_future(event.wait()) for event in (self._stop, *(k.given_up for k in keepers))
        ]
        await asyncio.wait((asked, *others), return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if asked.done():
            return asked.result()
        asked.cancel()
        return False

    async def _end(self, redis: Keeper | None) -> None:
        """Stop everything that talks to Redis, then Redis."""
        others = [keeper for keeper in self._programs.keepers if keeper is not redis]
        await self._programs.stop(others, STOP_SECONDS)
        if redis is not None:
            await self._programs.stop([redis], REDIS_STOP_SECONDS)
        await self._programs.finish()

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._stop.set()
        if self._interrupts > 1:
            self._programs.kill()

    def _report(self, name: str, line: str) -> None:
        sys.stderr.write(log_line(name, line, self._settings.log.format) + "\n")
        sys.stderr.flush()


def _see_that_it_starts(keeper: Keeper) -> None:
    if keeper.given_up.is_set():
        raise _does_not_start(keeper, EX_CONFIG)


def _does_not_start(keeper: Keeper, code: int = 1) -> CannotStart:
    return CannotStart(f"{keeper.program.name} does not start; its lines above say why", code)


def log_line(name: str, line: str, form: str) -> str:
    """A child's line as `up` writes it: with the program's name, and as JSON where that is wanted."""
    if form == "text":
        return f"{name:<12} | {line}"
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": "info", "message": line}
    return json.dumps({"process": name, **entry})


def ready_json(ready: Ready) -> str:
    """The line for scripts."""
    return json.dumps(asdict(ready))


def _environment() -> dict[str, str]:
    """Ours without our settings: children read those from one file."""
    return {name: value for name, value in os.environ.items() if not name.startswith("UWS_")}
