"""Real servers for tests: one Redis 7.0 and one Valkey 9, each started once per test process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.waiting import PATIENCE
from uws_server.redis_server import find, prepare, wait_until_ready

PROGRAMS = {"redis": "redis-server", "valkey": ""}
"""What the tests call a server → where it comes from; '' is the one in the wheel."""


@contextmanager
def serving(directory: Path, name: str) -> Iterator[str]:
    """A durable server in a directory; gives its URL."""
    program = find(PROGRAMS[name]) if PROGRAMS[name] else find(path=os.devnull)
    server = prepare(directory, program)
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until_ready(server, process.pid, 20), f"{program} does not start"
        yield server.url
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The URL of an empty server of a name; it is started when it is first asked for."""
    with ExitStack() as stack:
        urls: dict[str, str] = {}

        def url_of(name: str) -> str:
            if name not in urls:
                urls[name] = stack.enter_context(serving(tmp_path_factory.mktemp(name), name))
            with redis.Redis.from_url(urls[name]) as client:
                client.flushall()
            return urls[name]

        yield url_of


@pytest.fixture(params=sorted(PROGRAMS))
def redis_url(request: pytest.FixtureRequest, redis_servers: Callable[[str], str]) -> str:
    """The URL of an empty server; tests that ask for it run on Redis and on Valkey."""
    return redis_servers(request.param)
