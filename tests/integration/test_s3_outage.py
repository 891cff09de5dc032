"""A whole server whose S3 is slow, silent or gone for a while: nobody else waits, and no job is lost."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.s3_gate import Gate, gate
from tests.s3_servers import versitygw
from tests.up_jobs import UpJobs
from tests.up_process import running_up
from tests.waiting import PATIENCE, until
from uws_server.storage.s3 import S3Store

pytestmark = pytest.mark.covers("4:object-store-outage")

WORKING = b"""
import time
print("begun", flush=True)
time.sleep(3)
open("table.csv", "w").write("1,2,3")
print("ended", flush=True)
"""


@dataclass(frozen=True)
class Behind:
    """A running `up` that sees its store through a gate."""

    jobs: UpJobs
    gate: Gate
    store: S3Store
    """The same store, past the gate."""
    endpoint: str
    other: str
    """Where the same objects are kept by a server that takes our key for a wrong one."""

    def keys(self, job: str) -> list[str]:
        """What is stored of a job."""
        return [stored.key for stored in self.store.list(f"jobs/{job.rpartition('/')[2]}")]

    def printed(self, job: str) -> bytes:
        """What the job has printed, as it lies on the machine that runs it."""
        attempts = self.jobs.up.data / "sites" / "local" / "attempts"
        logs = attempts.glob(f"{job.rpartition('/')[2]}.*/**/logs/stdout")
        return b"".join(log.read_bytes() for log in logs)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    disk = tmp_path_factory.mktemp("versitygw")
    with versitygw(disk) as server, versitygw(disk) as other, gate(server.endpoint) as between:
        bucket = server.bucket()
        environment = {
            **server.environment(),
            "UWS_OBJECTS__URL": f"s3://{bucket.name}",
            "UWS_OBJECTS__ENDPOINT": between.endpoint,
            "UWS_WEB__WORKERS": "1",
        }
        data = tmp_path_factory.mktemp("up-outage") / "data"
        with running_up(data, environment=environment) as up:
            yield Behind(UpJobs(up), between, S3Store(bucket), server.endpoint, other.endpoint)


@pytest.fixture
def job(behind: Behind) -> str:
    job = behind.jobs.submit("script", b'print("hello")')
    behind.jobs.reach(job, "COMPLETED")
    return job


def test_a_slow_store_holds_up_nobody_else(behind: Behind, job: str) -> None:
    """100 requests hang in the only web process, more than it has threads for them; phases are answered."""
    behind.gate.hold()
    try:
        before = behind.gate.entered
        with ThreadPoolExecutor(100) as threads:
            hanging = [threads.submit(behind.jobs.ask, f"{job}/results/stdout") for _ in range(100)]
            until(lambda: behind.gate.entered - before > 20, "requests that wait for the store")
            slowest = 0.0
            for _ in range(100):
                began = time.monotonic()
                assert behind.jobs.ask(f"{job}/phase").text == "COMPLETED"
                slowest = max(slowest, time.monotonic() - began)
            assert not any(request.done() for request in hanging)
            behind.gate.release()
            answers = [request.result(PATIENCE) for request in hanging]
    finally:
        behind.gate.release()
    print(f"slowest phase while the store hung: {slowest * 1000:.0f} ms")
    assert slowest < 30
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"hello\n")}


def readiness(behind: Behind) -> tuple[int, str]:
    """What is said to who asks whether the server is ready."""
    answer = behind.jobs.ask("/readyz")
    return answer.status, answer.text


def test_a_store_that_is_gone_is_said(behind: Behind, job: str) -> None:
    behind.gate.refuse()
    try:
        result = behind.jobs.ask(f"{job}/results/stdout")
        assert (result.status, result.text) == (503, "the object store does not answer just now; try again")
        assert behind.jobs.ask(f"{job}/phase").text == "COMPLETED"
        gone = 503, "web: ok; redis: ok; objects: does not answer"
        until(lambda: readiness(behind) == gone, lambda: f"the word that it is gone: {readiness(behind)}")
    finally:
        behind.gate.admit()
    until(lambda: behind.jobs.ask("/readyz").status == 200, "the word that it is back")


@pytest.mark.parametrize("fault", ["gone", "key revoked"])
def test_a_job_whose_store_fails_when_it_ends_is_not_lost(behind: Behind, fault: str) -> None:
    job = behind.jobs.submit("script", WORKING)
    behind.jobs.reach(job, "EXECUTING")
    until(lambda: behind.jobs.result(job, "stdout") == b"begun\n", "the first line")
    if fault == "key revoked":
        behind.gate.lead_to(behind.other)
    behind.gate.refuse(10**9 if fault == "gone" else 0)
    try:
        until(lambda: b"ended" in behind.printed(job), "the end of the user's code")
        entered, passed = behind.gate.entered, behind.gate.passed
        until(
            lambda: behind.gate.entered > entered + 3 or behind.gate.passed > passed + 10_000,
            "tries to store its results",
        )
        found = behind.jobs.look(job)
        assert found["phase"] == "EXECUTING" or found["finalising"]
    finally:
        behind.gate.lead_to(behind.endpoint)
        behind.gate.refuse(0)
    found = behind.jobs.reach(job, "COMPLETED", "ERROR")
    assert (found["phase"], found["attempt"]) == ("COMPLETED", 1)
    assert behind.jobs.result(job, "stdout") == b"begun\nended\n"
    behind.jobs.gone(job)


def test_what_a_deleted_job_stored_goes_once_the_store_is_back(behind: Behind, job: str) -> None:
    assert behind.keys(job)
    behind.gate.refuse()
    try:
        parts = urlsplit(job)
        with closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)) as connection:
            connection.request("DELETE", parts.path)
            assert connection.getresponse().status == 303
        assert behind.jobs.ask(job).status == 404
        assert behind.keys(job)
    finally:
        behind.gate.admit()
    until(lambda: not behind.keys(job), "the end of the job's objects")
