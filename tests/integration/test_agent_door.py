"""The agent at the server's own door: both sides mean the same by the same words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runners.agent.attempt_dir import Access
from runners.agent.deadline import Deadline
from runners.agent.door import Door as AgentDoor
from runners.agent.door import Fenced, Refused
from tests.integration.agent_door import JOB, Attempt, serving
from tests.integration.real_door import SECRET, TABLE, Server
from tests.jobs import bare_spec
from tests.waiting import PATIENCE
from uws_server.domain.errors import Conflict
from uws_server.domain.runspec import Input, RunSpec
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED, STAGE_OUT_FAILED
from uws_server.service.door import agent_token
from uws_server.service.manifest import load_manifest
from uws_server.service.uploads import parameter_key
from uws_server.storage.links import now


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "store")


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    with serving(server.app) as number:
        yield number


@pytest.mark.covers("3:agent-stage-in", "3:agent-outputs", "3:agent-logs", "3:agent-progress")
def test_from_upload_to_manifest(server: Server, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, inputs=[Input("t.csv", "upload:table")], token=server.token)
    assert attempt.run("stage-in") == 0
    assert (attempt.inputs / "t.csv").read_bytes() == b"a,b\n"
    (attempt.logs / "stdout").write_text("log\n")
    (attempt.uws / "progress").write_text("2 3\n")
    for name in ("x y.fits", "ü/%2e.csv", "deep/er/er/z"):
        (attempt.outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (attempt.outputs / name).write_text(name)
    attempt.end()
    assert attempt.run("follow") == 0, attempt.said("stage-out")
    loaded = load_manifest(server.objects, replace(server.job, attempt=1))
    assert loaded is not None
    results, sizes = loaded
    assert sizes == (4, 0)
    assert {result.name for result in results} == {
        "results/x y.fits",
        "results/ü/%2e.csv",
        "results/deep/er/er/z",
    }
    manifest = json.loads(b"".join(server.objects.read(f"jobs/{JOB}/1/manifest.json")))
    assert manifest["inputs"][0]["path"] == "t.csv"
    job = server.jobs.get(JOB)
    assert job is not None
    assert job.progress == (2, 3)
    (attempt.top / "agent-state.json").unlink()  # as if killed just before it was written
    assert attempt.run("follow") == 0


def test_an_upload_that_the_job_does_not_have(server: Server, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, inputs=[Input("t", "upload:other")], token=server.token)
    assert attempt.run("stage-in") == STAGE_IN_FAILED
    said = attempt.said("stage-in")
    assert "the job has no upload" in said["message"]
    assert not said["transient"]


@pytest.mark.parametrize("token", ["of-another-attempt", "of-another-job"])
def test_fenced_off(server: Server, port: int, tmp_path: Path, token: str) -> None:
    """A valid token of an attempt that is not the current one, or of a job that is gone."""
    other = agent_token(SECRET, JOB, 2) if token == "of-another-attempt" else agent_token(SECRET, "1" * 26, 1)
    attempt = Attempt(tmp_path / "a", port, inputs=[Input("t", "upload:table")], token=other)
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("stage-in") == FENCED
    assert attempt.run("follow") == FENCED
    assert [stored.key for stored in server.objects.list(f"jobs/{JOB}")] == [parameter_key(JOB, TABLE)]


def test_a_result_larger_than_the_server_takes(server: Server, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, token=server.token)
    (attempt.outputs / "big").write_bytes(bytes(1024**2 + 1))
    (attempt.outputs / "small").write_bytes(b"x")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    loaded = load_manifest(server.objects, server.job)
    assert loaded is not None
    assert [result.name for result in loaded[0]] == ["results/small"]
    assert "'big'" in attempt.said("stage-out")["message"]


def test_an_agent_that_lies_about_its_limits(server: Server, port: int, tmp_path: Path) -> None:
    """As if user code had got hold of the token: the door counts, whatever the agent was told."""
    attempt = Attempt(tmp_path / "a", port, token=server.token)
    for number in range(6):
        (attempt.outputs / f"f{number}").write_bytes(bytes(900_000))
    (attempt.logs / "stdout").write_bytes(bytes(100_000))
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    said = attempt.said("stage-out")
    assert "would store more than its 5 results of 4194304 bytes together" in said["message"]
    assert "does not continue that log within its 10000 bytes" in said["detail"]
    stored = [entry for entry in server.objects.list(f"jobs/{JOB}/1") if "manifest" not in entry.key]
    assert sum(entry.size for entry in stored) == 4 * 900_000
    loaded = load_manifest(server.objects, server.job)
    assert loaded is not None
    assert len(loaded[0]) == 4


@pytest.mark.covers("3:agent-outputs")
def test_of_manifests_at_once_one_stands(server: Server) -> None:
    """Whoever is second is refused, unless it says the very same; what stands is what the first said."""
    door = server.door
    manifests = [
        {"version": 1, "job": JOB, "attempt": 1, "logs": None, "results": [], "notes": [str(number)]}
        for number in range(8)
    ]
    together = threading.Barrier(len(manifests))
    taken: list[dict[str, Any]] = []

    def hand_in(manifest: dict[str, Any]) -> None:
        together.wait(PATIENCE)
        with suppress(Conflict):
            door.hand_in(server.token, manifest)
            taken.append(manifest)

    threads = [threading.Thread(target=hand_in, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert taken == [json.loads(b"".join(server.objects.read(f"jobs/{JOB}/1/manifest.json")))]
    door.hand_in(server.token, taken[0])  # as after a lost reply


@pytest.mark.covers("4:begins-once")
def test_an_attempt_begins_where_it_is_asked_for_first(server: Server) -> None:
    with serving(server.app) as port:
        door = AgentDoor(Access(f"http://127.0.0.1:{port}/agent/v1", server.token), Deadline())
        text = door.begin("pod-a")
        assert RunSpec.from_json(text) == bare_spec(server.job)
        assert door.begin("pod-a") == text
        with pytest.raises(Fenced, match="not to begin here"):
            door.begin("pod-b")
        with pytest.raises(Refused, match="place"):
            door.begin("")


@pytest.mark.covers("4:begins-once")
@pytest.mark.parametrize(("clock", "noted"), [(-(10**7), 0), (5, 5), (10**7, None)])
def test_the_start_of_the_code_is_noted_within_the_jobs_own_times(
    server: Server, clock: int, noted: int | None
) -> None:
    """A pod's clock may be wrong by hours."""
    created = server.job.created
    with serving(server.app) as port:
        assert AgentDoor(Access(f"http://127.0.0.1:{port}/agent/v1", server.token), Deadline()).started(
            created + clock
        )
    job = server.jobs.get(JOB)
    assert job is not None
    assert job.attempt_started is not None
    if noted is None:
        assert created <= job.attempt_started <= now()
    else:
        assert job.attempt_started == created + noted
