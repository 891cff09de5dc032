"""What was answered is on disk: shown by cutting the append-only file at its last fsynced byte.

Killing Redis would show nothing, as what it wrote is in the page cache and outlives it. So Redis runs
under a tracer of ours (tests/crash/tracer.py) that notes after each fsync how much of the file it covers;
the "power cut" is a copy of the file, cut there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests import jobs
from tests.jobs import NOW, ROOM
from tests.redis_servers import PROGRAMS
from tests.waiting import PATIENCE, until
from uws_server.domain.events import RunRequested, advance
from uws_server.domain.job import Job
from uws_server.factory import new_job_id
from uws_server.redis_server import RedisServer, find, prepare
from uws_server.store.base import StoreUnavailable
from uws_server.store.redis import RedisStore

ROOT = Path(__file__).resolve().parents[2]
EX_CONFIG = 78
WRITERS = 4


class Traced:
    """A Redis of which every fsync is noted."""

    def __init__(self, directory: Path, name: str, appendfsync: str) -> None:
        directory.mkdir()
        self.log = directory / "fsyncs"
        self.server = _prepared(directory, name)
        command = [sys.executable, "-m", "tests.crash.tracer", str(self.log), *self.server.command]
        self.process = subprocess.Popen(
            [*command, "--appendfsync", appendfsync],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        until(self.server.answers, "the server's answer")

    def synced(self) -> tuple[Path, int]:
        """The file that is appended to, and how much of it is on disk."""
        (path,) = self.server.directory.glob("*/*.incr.aof")
        sizes = [line.split(" ", 1) for line in self.log.read_text().splitlines()]
        return path, max((int(size) for size, of in sizes if of == str(path)), default=0)

    def power_cut(self, copy: Path, name: str) -> RedisServer:
        """End it at once; the server that comes back with what was on disk."""
        self.process.kill()  # and the server with it
        self.process.wait(PATIENCE)
        until(lambda: not self.server.answers(), "the server's end")
        path, size = self.synced()
        assert path.stat().st_size >= size
        after = _prepared(copy, name)
        shutil.copytree(path.parent, after.directory / path.parent.name)
        os.truncate(after.directory / path.parent.name / path.name, size)
        return after


def _prepared(directory: Path, name: str) -> RedisServer:
    return prepare(directory, find(PROGRAMS[name]) if PROGRAMS[name] else find(path=os.devnull))


@contextmanager
def running(server: RedisServer, *words: str) -> Iterator[RedisServer]:
    process = subprocess.Popen([*server.command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        until(server.answers, "the server's answer")
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE)


def a_job() -> Job:
    return jobs.job(id=new_job_id(), service="probe")


class Submissions:
    """Threads that create jobs, run and claim them, and remember what was acknowledged."""

    def __init__(self, url: str) -> None:
        self._store = RedisStore(url)
        self._stop = threading.Event()
        self.acknowledged: dict[str, Job] = {}
        self.threads = [threading.Thread(target=self._submit) for _ in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def _submit(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            job = a_job()
            try:
                self._store.create(job)
                self.acknowledged[job.id] = job
                if number % 2:
                    queued = advance(job, RunRequested("local", 100, 100, NOW), NOW)
                    assert self._store.change(job, queued)
                    self.acknowledged[job.id] = queued
                if number % 8 == 1:
                    self._store.claim("local", ROOM, 60)
            except StoreUnavailable:
                return

    def end(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        self._store.close()


def lost(store: RedisStore, acknowledged: dict[str, Job]) -> list[str]:
    """Jobs that are gone, or older than what was acknowledged."""
    return [
        job_id
        for job_id, job in acknowledged.items()
        if (found := store.get(job_id)) is None or found.version < job.version
    ]


@pytest.mark.covers("3:crash-fsync")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_power_cut_loses_nothing_that_was_acknowledged(name: str, tmp_path: Path) -> None:
    traced = Traced(tmp_path / "a", name, "always")
    submissions = Submissions(traced.server.url)
    until(lambda: len(submissions.acknowledged) >= 300, "300 submissions")
    after = traced.power_cut(tmp_path / "b", name)  # in the midst of it
    submissions.end()
    with running(after):
        store = RedisStore(after.url)
        assert lost(store, submissions.acknowledged) == []
        # Indexes, waiting line and use of the site came back with the records.
        claimed = list(iter(lambda: store.claim("local", replace(ROOM, jobs=10**6), 60), None))
        found = store.get_many(claimed)
        assert all(job is not None and job.site == "local" for job in found)
        store.close()


@pytest.mark.covers("3:crash-fsync")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_cut_loses_jobs_without_fsync_at_each_write(name: str, tmp_path: Path) -> None:
    """So the test above can fail; and the server refuses to start on such a Redis."""
    for number in range(5):
        traced = Traced(tmp_path / f"a{number}", name, "everysec")
        store = RedisStore(traced.server.url)
        store.create(a_job())
        before = traced.synced()[1]
        until(lambda seen=before, of=traced: of.synced()[1] > seen, "the next fsync")  # type: ignore[misc]
        acknowledged = {job.id: job for job in (store.create(a_job()) for _ in range(20))}
        after = traced.power_cut(tmp_path / f"b{number}", name)
        store.close()
        with running(after):
            store = RedisStore(after.url)
            missing = lost(store, acknowledged)
            store.close()
        if missing:
            return
    pytest.fail("nothing was lost in five power cuts")


@pytest.mark.covers("3:config-durable", "3:crash-fsync")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--appendfsync", "everysec"), "appendfsync is everysec, not always"),
        (("--appendonly", "no"), "the append-only file is off"),
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
    ],
)
@pytest.mark.parametrize("role", [("reconcile",), ("worker", "--site", "local"), ("web", "--port", "0")])
def test_start_is_refused_on_a_store_that_is_not_durable(
    role: tuple[str, ...], words: tuple[str, str], sentence: str, tmp_path: Path
) -> None:
    with running(_prepared(tmp_path, "redis"), *words) as server:
        done = subprocess.run(
            [sys.executable, "-m", "uws_server.cli", *role],
            env={**_environment(tmp_path), "UWS_REDIS__URL": server.url},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == EX_CONFIG, done.stderr
        assert sentence in done.stderr
        assert "redis.durable: false permits that" in done.stderr


@pytest.mark.covers("3:config-durable")
def test_start_is_permitted_where_that_is_configured(tmp_path: Path) -> None:
    with running(_prepared(tmp_path, "redis"), "--appendfsync", "everysec") as server:
        client = redis.Redis.from_url(server.url)
        process = subprocess.Popen(
            [sys.executable, "-m", "uws_server.cli", "reconcile"],
            env={**_environment(tmp_path), "UWS_REDIS__URL": server.url, "UWS_REDIS__DURABLE": "false"},
        )
        try:
            until(lambda: client.exists("uws:lease:reconciler"), "the reconciler's lease")
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
            client.close()
        assert code == 0


def _environment(data: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("UWS_", "COV_"))}
    return {**plain, "UWS_DATA": str(data / "data"), "PYTHONPATH": str(ROOT)}
