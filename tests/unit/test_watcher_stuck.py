"""What an attempt waits for in vain ends its job after the site's limit; for nothing else a job is failed."""

from __future__ import annotations

import pytest

from runners.base import Unreachable
from tests.engine import Engine
from uws_server.domain.job import Workload
from uws_server.domain.phase import Phase
from uws_server.store.base import FencedOff

pytestmark = pytest.mark.covers("4:pending-limit")

LIMIT = 600_000  # ms, as the engine's site has it
NOWHERE = "waiting for a node: 0/1 nodes are available: 1 Insufficient cpu"


@pytest.fixture
def engine() -> Engine:
    return Engine()


def waiting(engine: Engine, *, stuck: bool | None = True) -> str:
    """The id of a job that waits at its site, since now."""
    job = engine.submit()
    engine.work()
    engine.runner.wait_for(job.id, 1, NOWHERE, stuck=stuck)
    engine.look()
    assert engine.job(job.id).reason == NOWHERE
    return job.id


def pass_time(engine: Engine, milliseconds: int) -> None:
    """Time goes by, and the watcher looks at its end."""
    engine.now += milliseconds
    engine.look()


def test_at_the_limit_the_job_fails_with_the_last_reason_and_the_site_is_cleared(engine: Engine) -> None:
    job_id = waiting(engine)
    last = f"{NOWHERE}, 1 Insufficient memory"
    engine.runner.wait_for(job_id, 1, last, stuck=True)
    pass_time(engine, LIMIT - 1)
    assert engine.job(job_id).phase is Phase.QUEUED
    pass_time(engine, 1)
    job = engine.job(job_id)
    assert job.error is not None
    assert job.error.message == f"The job could not start for 600 seconds, and waiting does not help: {last}"
    assert (job.phase, job.error.transient, job.workload) == (Phase.ERROR, False, Workload.STOPPING)
    engine.look()
    assert engine.job(job_id) == job
    engine.work()
    engine.look()
    assert engine.job(job_id).workload is Workload.NONE
    assert not engine.site.attempts
    assert not engine.site.runs


def test_what_may_come_by_waiting_is_waited_for_without_end(engine: Engine) -> None:
    job_id = waiting(engine, stuck=False)
    for _ in range(10):
        pass_time(engine, LIMIT)
    assert engine.job(job_id).phase is Phase.QUEUED


@pytest.mark.parametrize("starts", [False, True])
def test_what_gets_on_is_given_the_whole_limit_again(engine: Engine, starts: bool) -> None:
    job_id = waiting(engine)
    pass_time(engine, LIMIT - 1)
    if starts:
        engine.runner.run(job_id, 1)
        pass_time(engine, LIMIT)
        assert engine.job(job_id).phase is Phase.EXECUTING
        return
    engine.runner.wait_for(job_id, 1, "pulling the image")
    pass_time(engine, 1)
    engine.runner.wait_for(job_id, 1, NOWHERE, stuck=True)
    pass_time(engine, 1)
    pass_time(engine, LIMIT - 1)
    assert engine.job(job_id).phase is Phase.QUEUED
    pass_time(engine, 1)
    assert engine.job(job_id).phase is Phase.ERROR


def test_what_is_not_known_for_a_moment_neither_ends_the_wait_nor_the_job(engine: Engine) -> None:
    job_id = waiting(engine)
    engine.runner.wait_for(job_id, 1, "waiting for a pod", stuck=None)
    pass_time(engine, LIMIT)
    assert (engine.job(job_id).phase, engine.job(job_id).reason) == (Phase.QUEUED, "waiting for a pod")
    engine.runner.wait_for(job_id, 1, NOWHERE, stuck=True)
    engine.look()
    error = engine.job(job_id).error
    assert error is not None
    assert error.message.endswith(NOWHERE)


def test_another_watcher_goes_by_the_record(engine: Engine) -> None:
    job_id = waiting(engine)
    stale = engine.lease("watcher:local", "watcher a")
    engine.now += LIMIT - 1
    other = engine.another_watcher("watcher b")
    lease = engine.lease("watcher:local", "watcher b")
    other.look(lease)
    assert engine.job(job_id).phase is Phase.QUEUED
    engine.now += 1
    with pytest.raises(FencedOff):
        engine.watcher.look(stale)
    assert engine.job(job_id).phase is Phase.QUEUED
    other.look(lease)
    assert engine.job(job_id).phase is Phase.ERROR


def test_the_time_in_which_the_site_was_silent_does_not_count(engine: Engine) -> None:
    job_id = waiting(engine)
    pass_time(engine, LIMIT - 1)
    engine.runner.unreachable = "silent"
    with pytest.raises(Unreachable):
        pass_time(engine, LIMIT)
    engine.runner.unreachable = ""
    pass_time(engine, LIMIT - 1)
    assert engine.job(job_id).phase is Phase.QUEUED
    pass_time(engine, 1)
    assert engine.job(job_id).phase is Phase.ERROR


def test_a_second_attempt_has_the_limit_for_itself(engine: Engine) -> None:
    job_id = waiting(engine)
    pass_time(engine, LIMIT - 1)
    engine.runner.lose(job_id, 1)
    engine.look()
    engine.work()
    engine.runner.wait_for(job_id, 2, NOWHERE, stuck=True)
    pass_time(engine, 1)
    pass_time(engine, LIMIT - 1)
    assert engine.job(job_id).error is None
    pass_time(engine, 1)
    assert (engine.job(job_id).phase, engine.job(job_id).attempt) == (Phase.ERROR, 2)


def test_without_a_limit_nothing_fails(engine: Engine) -> None:
    engine.watcher._stuck._limit = 0
    job_id = waiting(engine)
    pass_time(engine, 100 * LIMIT)
    assert engine.job(job_id).phase is Phase.QUEUED
