"""An abort keeps what there is: the real supervisor, the real agent, the real door."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners.base import Cause, State
from tests.integration.agent_door import JOB, serving
from tests.integration.real_door import Server
from tests.local_site import LocalSite, local_site, modes
from tests.waiting import until
from uws_server.domain.runspec import AttemptLimits, Output, RunSpec
from uws_server.service.manifest import load_manifest
from uws_server.service.results import Results

pytestmark = pytest.mark.covers("3:local-abort-tree", "3:agent-outputs", "3:agent-logs", "UWS-15")

AGENT = (sys.executable, "-P", "-m", "runners.agent")
GROWING = """
import sys, time
for number in range({files}):
    open(f"table-{{number:02d}}.csv", "w").write("1,2,3\\n" * 100)
for number in range(10**6):
    print("line", number, flush=True)
    print("warning", number, file=sys.stderr, flush=True)
    time.sleep(0.02)
"""


class SlowStore(Server):
    """A server whose store takes its time for each result."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.seconds = 0.0

        def delay() -> None:
            from flask import request

            if request.method == "PUT" and "/results/" in request.path:
                time.sleep(self.seconds)

        self.app.before_request(delay)


@pytest.fixture
def server(tmp_path: Path) -> SlowStore:
    return SlowStore(tmp_path / "store")


@pytest.fixture
def port(server: SlowStore) -> Iterator[int]:
    with serving(server.app) as number:
        yield number


@pytest.fixture
def site(tmp_path: Path, port: int) -> Iterator[LocalSite]:
    with local_site(tmp_path / "site", modes()[0], agent=AGENT) as made:
        yield made


def running(site: LocalSite, server: SlowStore, port: int, files: int, grace: int) -> RunSpec:
    """A job with a growing log, some of which is stored already."""
    server.limits = AttemptLimits(output_files=100)
    spec = site.spec(
        *(sys.executable, "-c", GROWING.format(files=files)),
        job_id=JOB,
        outputs=(Output("table", "*.csv"),),
        limits=AttemptLimits(grace=grace),
    )
    site.runner.start(spec, f"http://127.0.0.1:{port}/agent/v1", server.token)
    site.reached(spec, State.RUNNING)
    logs = Results(server.objects)
    until(lambda: logs.find(server.job, "stdout").stored.size > 200, "a stored piece of the log")
    return spec


def test_an_abort_keeps_log_results_and_manifest(site: LocalSite, server: SlowStore, port: int) -> None:
    spec = running(site, server, port, files=12, grace=10)
    site.runner.stop(spec.job_id, spec.attempt)
    seen = site.ended(spec)
    assert seen.outcome is not None
    assert seen.outcome.cause is Cause.STOPPED
    loaded = load_manifest(server.objects, server.job)
    assert loaded is not None
    results, sizes = loaded
    assert [result.id for result in results] == [f"table.table-{number:02d}.csv" for number in range(12)]
    for stream, size in zip(("stdout", "stderr"), sizes or (), strict=True):
        stored = b"".join(
            b"".join(server.objects.read(entry.key))
            for entry in server.objects.list(f"jobs/{JOB}/1/logs/{stream}")
        )
        assert stored == (site.attempt(spec) / "logs" / stream).read_bytes()
        assert len(stored) == size


def test_an_abort_leaves_the_agent_its_grace(site: LocalSite, server: SlowStore, port: int) -> None:
    """A store too slow for all results: those that came in time are in the manifest, which comes last."""
    server.seconds = 1.0
    spec = running(site, server, port, files=40, grace=3)
    site.runner.stop(spec.job_id, spec.attempt)
    site.ended(spec)
    loaded = load_manifest(server.objects, server.job)
    assert loaded is not None
    assert 4 <= len(loaded[0]) < 40
    manifest = json.loads(b"".join(server.objects.read(f"jobs/{JOB}/1/manifest.json")))
    assert manifest["logs"]["stdout"] == (site.attempt(spec) / "logs" / "stdout").stat().st_size
    said = json.loads((site.attempt(spec) / "stage-out.json").read_bytes())
    assert said["message"] == "Not everything could be stored in the time that was left."
