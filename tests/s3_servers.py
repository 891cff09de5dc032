"""Real S3 servers for tests: versitygw (one Go program) and Swift with its s3api, which share no code.

Both listen on loopback only, are children of the test process and end with it. versitygw is built from
its Go module when the tests' cache has no copy, which takes one to two minutes; Swift is Debian's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.programs import CACHE, find_go, locked
from tests.waiting import PATIENCE, until
from uws_server.storage.s3_bucket import Bucket
from uws_server.storage.sigv4 import Key, presigned

_VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_BUILD_SECONDS = 540
_ACCOUNT = "test:tester"  # what Swift's tempauth calls its users; also versitygw's key id


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server and the one key to it."""

    name: str
    endpoint: str
    key: Key

    def environment(self) -> dict[str, str]:
        """The key as programs find it."""
        return {"AWS_ACCESS_KEY_ID": self.key.id, "AWS_SECRET_ACCESS_KEY": self.key.secret}

    def bucket(self, prefix: str = "") -> Bucket:
        """A new bucket, as the store is told of it."""
        name = f"uws-{secrets.token_hex(6)}"
        link = presigned("PUT", f"{self.endpoint}/{name}", self.key, "us-east-1", 60, datetime.now(UTC))
        with urllib.request.urlopen(urllib.request.Request(link, method="PUT"), timeout=PATIENCE):
            return Bucket(name, prefix, self.endpoint, key=self.key)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _versitygw() -> Path:
    """The program, built once for this user."""
    program = CACHE / f"versitygw-{_VERSITYGW.rpartition('@')[2]}" / "versitygw"
    with locked(program.parent / "lock"):
        if not program.exists():
            environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(program.parent / "build")}
            command = [str(find_go()), "install", _VERSITYGW]
            subprocess.run(command, env=environment, check=True, timeout=_BUILD_SECONDS)
            (program.parent / "build" / "versitygw").rename(program)  # whole, or not there
    return program


@contextmanager
def _running(
    command: list[str], directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that ends with the block; what it says is in ``output`` of the directory."""
    with (directory / "output").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_it_answers(url: str, directory: Path, *processes: subprocess.Popen[bytes]) -> None:
    def said() -> str:
        return (directory / "output").read_text(errors="replace")[-2000:]

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
            if answer.status == 200:
                return True
        assert all(process.poll() is None for process in processes), said()
        return False

    until(answers, lambda: f"an answer of {url}: {said()}")


@contextmanager
def versitygw(directory: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Versitygw on a directory, whose directories are its buckets; each start has a key of its own."""
    program = _versitygw()
    port, key = free_port(), secrets.token_hex(16)
    root = directory / "root"
    root.mkdir(exist_ok=True)
    command = [str(program), "--port", f"{host}:{port}", "--health", "/healthz", "posix", str(root)]
    with _running(command, directory, {"ROOT_ACCESS_KEY": _ACCOUNT, "ROOT_SECRET_KEY": key}) as process:
        endpoint = f"http://{host}:{port}"
        _until_it_answers(f"{endpoint}/healthz", directory, process)
        yield S3Server("versitygw", endpoint, Key(_ACCOUNT, key))


_LAUNCH = """
import runpy, sys, types
from swift.common import utils
utils.set_swift_dir(sys.argv.pop(1))  # its programs read /etc/swift alone

class Forgetful:  # tempauth wants to see a cache, even one that keeps nothing
    def __getattr__(self, name):
        return lambda *_, **__: None

def factory(configuration, **_):
    return lambda app: lambda environ, start: app({**environ, "swift.cache": Forgetful()}, start)

sys.modules["forgetful"] = types.ModuleType("forgetful")
sys.modules["forgetful"].factory = factory
sys.argv[0] = "/usr/bin/swift-" + sys.argv[1].rpartition("/")[2].removesuffix(".conf")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
log_level = WARNING
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:cache]
paste.filter_factory = forgetful:factory
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {key} .admin
"""
_MIDDLEWARE = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "slo", "dlo")
_RINGS = """
import sys
from swift.common.ring import RingBuilder
directory = sys.argv.pop(1)
for number, name in enumerate(("account", "container", "object")):
    ring = RingBuilder(4, 1, 0)
    ring.add_dev(
        {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": int(sys.argv[number + 1]),
         "device": "disk"}
    )
    ring.rebalance()
    ring.get_ring().save(f"{directory}/{name}.ring.gz")
"""


@contextmanager
def swift(directory: Path) -> Iterator[S3Server]:
    """Swift with one replica of everything, and its s3api in front."""
    key = secrets.token_hex(16)
    ports = {name: free_port() for name in ("account", "container", "object", "proxy")}
    (directory / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    (directory / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    for name, port in ports.items():
        text = _COMMON.format(port=port, user=user, directory=directory)
        if name == "proxy":
            text += _PROXY.format(key=key)
            text += "".join(f"[filter:{part}]\nuse = egg:swift#{part}\n" for part in _MIDDLEWARE)
        else:
            text += f"[pipeline:main]\npipeline = healthcheck {name}-server\n"
            text += "[filter:healthcheck]\nuse = egg:swift#healthcheck\n"
            text += f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        (directory / f"{name}-server.conf").write_text(text)
    python = "/usr/bin/python3"  # the one that Debian's Swift is installed for
    subprocess.run(
        [python, "-c", _RINGS, str(directory), *(str(ports[name]) for name in list(ports)[:3])],
        check=True,
        timeout=PATIENCE,
    )
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                _running(
                    [python, "-c", _LAUNCH, str(directory), str(directory / f"{name}-server.conf")], directory
                )
            )
            for name in ports
        ]
        for port in ports.values():
            _until_it_answers(f"http://127.0.0.1:{port}/healthcheck", directory, *processes)
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        yield S3Server("swift", endpoint, Key(_ACCOUNT, key))


SERVERS = {"versitygw": versitygw, "swift": swift}
"""What the tests call a server → what starts it in a directory."""


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    """A server by its name; it is started when it is first asked for."""
    with ExitStack() as stack:
        running: dict[str, S3Server] = {}

        def server_of(name: str) -> S3Server:
            if name not in running:
                running[name] = stack.enter_context(SERVERS[name](tmp_path_factory.mktemp(name)))
            return running[name]

        yield server_of


if __name__ == "__main__":  # before the tests, for a test may not take as long
    print(_versitygw())
