"""WAIT, on one process: when it blocks, when it does not, and what wakes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from werkzeug.test import TestResponse

from tests.jobs import NOW
from tests.waiting import PATIENCE, until
from tests.web.world import Client, World, texts
from uws_server.domain import events
from uws_server.domain.phase import ACTIVE, Phase
from uws_server.web.parts import Bounds

covers = pytest.mark.covers

NOT_ITS_END = 50.0
"""Seconds: what took less did not wait as long as it may, which is 90 s and more."""


@pytest.fixture
def world() -> Iterator[World]:
    world = World(bounds=Bounds(wait_seconds=100))
    reader = threading.Thread(target=world.waiting.run)
    reader.start()
    yield world
    world.waiting.stop()
    world.in_phase(Phase.PENDING)  # an event, so that the reader looks up
    reader.join(PATIENCE)
    assert not reader.is_alive()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def parked(world: World, count: int) -> None:
    """Come back once so many wait."""
    until(lambda: world.waiting.count >= count, lambda: f"{world.waiting.count} of {count} wait")


def waiter(world: World, pool: ThreadPoolExecutor, address: str) -> Future[TestResponse]:
    client = world.client()
    return pool.submit(lambda: client.get(address))


@covers("UWS-43", "UWS-44", "UWS-46", "UWS-50", "3:wait-events")
@pytest.mark.parametrize("query", ["WAIT=-1", "WAIT=90", "wait=-1", "WAIT=-1&PHASE=PENDING"])
def test_wait_returns_when_the_phase_changes(world: World, pool: ThreadPoolExecutor, query: str) -> None:
    job = world.in_phase(Phase.PENDING)
    waiting = [waiter(world, pool, f"/stack/async/{job.id}?{query}") for _ in range(20)]
    parked(world, 20)
    assert not any(one.done() for one in waiting)
    began = time.monotonic()
    world.apply(job.id, events.RunRequested("local", 1000, 0, NOW))
    for one in waiting:
        response = one.result(PATIENCE)
        assert response.status_code == 200
        assert b"<uws:phase>QUEUED<" in response.data
    assert time.monotonic() - began < NOT_ITS_END
    assert world.waiting.count == 0


@covers("UWS-44", "UWS-43")
def test_wait_returns_at_its_end(world: World) -> None:
    job = world.in_phase(Phase.QUEUED)
    began = time.monotonic()
    root = world.client().xml(f"/stack/async/{job.id}?WAIT=1")
    assert 0.9 < time.monotonic() - began < NOT_ITS_END
    assert list(texts(root, "phase")) == ["QUEUED"]


@covers("UWS-45", "UWS-47", "UWS-49")
@pytest.mark.parametrize("phase", list(Phase))
def test_when_wait_does_not_block(world: World, phase: Phase) -> None:
    job = world.in_phase(phase)
    client = world.client()
    queries = ["WAIT=0", "WAIT=-1&PHASE=" + ("QUEUED" if phase is Phase.PENDING else "PENDING")]
    if phase not in ACTIVE:
        queries += ["WAIT=-1", f"WAIT=-1&PHASE={phase}"]
    began = time.monotonic()
    for query in queries:
        assert client.get(f"/stack/async/{job.id}?{query}").status_code == 200
    assert client.head(f"/stack/async/{job.id}?WAIT=-1").status_code == 200
    assert time.monotonic() - began < NOT_ITS_END


@covers("UWS-43")
def test_nothing_but_the_job_blocks(world: World) -> None:
    job = world.in_phase(Phase.QUEUED)
    began = time.monotonic()
    for sub in ("/phase", "/results", "/parameters", "/owner", "/quote"):
        assert world.client().get(f"/stack/async/{job.id}{sub}?WAIT=-1").status_code == 200
    assert world.client().get("/stack/async?WAIT=-1").status_code == 200
    assert time.monotonic() - began < NOT_ITS_END


@covers("UWS-48", "UWS-46")
def test_wait_is_capped_by_the_settings() -> None:
    world = World(bounds=Bounds(wait_seconds=0.3))
    job = world.in_phase(Phase.QUEUED)
    began = time.monotonic()
    for query in ("WAIT=-1", "WAIT=3600"):
        assert world.client().get(f"/stack/async/{job.id}?{query}").status_code == 200
    assert 0.5 < time.monotonic() - began < NOT_ITS_END


@covers("UWS-49", "3:bad-control")
@pytest.mark.parametrize(
    "query",
    [
        "WAIT=-2",
        "WAIT=x",
        "WAIT=",
        "WAIT=1.5",
        "WAIT=1&WAIT=2",
        "WAIT=1&wait=1",
        "WAIT=5&PHASE=queued",
        "WAIT=5&PHASE=",
    ],
)
def test_a_bad_wait_is_400(world: World, query: str) -> None:
    job = world.in_phase(Phase.QUEUED)
    assert world.client().get(f"/stack/async/{job.id}?{query}").status_code == 400


@covers("UWS-51")
def test_above_the_cap_on_waiters_the_answer_is_early(world: World, pool: ThreadPoolExecutor) -> None:
    world.waiting._most = 3
    job = world.in_phase(Phase.QUEUED)
    held = [waiter(world, pool, f"/stack/async/{job.id}?WAIT=-1") for _ in range(3)]
    parked(world, 3)
    began = time.monotonic()
    assert world.client().get(f"/stack/async/{job.id}?WAIT=-1").status_code == 200
    assert time.monotonic() - began < NOT_ITS_END
    world.apply(job.id, events.AbortRequested())
    assert [b"ABORTED" in one.result(PATIENCE).data for one in held] == [True] * 3


@covers("UWS-68")
def test_who_waits_for_a_deleted_job_gets_404(world: World, pool: ThreadPoolExecutor) -> None:
    job = world.in_phase(Phase.QUEUED)
    held = waiter(world, pool, f"/stack/async/{job.id}?WAIT=-1")
    parked(world, 1)
    client: Client = world.client()
    assert client.delete(f"/stack/async/{job.id}").status_code == 303
    assert held.result(PATIENCE).status_code == 404


def test_a_server_that_stops_answers_everybody(world: World, pool: ThreadPoolExecutor) -> None:
    job = world.in_phase(Phase.QUEUED)
    held = [waiter(world, pool, f"/stack/async/{job.id}?WAIT=-1") for _ in range(5)]
    parked(world, 5)
    world.waiting.stop()
    assert [one.result(PATIENCE).status_code for one in held] == [200] * 5
