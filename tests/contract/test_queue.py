"""What every queue does with wake-ups: the double in memory, RQ on Redis 7.0 and on Valkey 9."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import redis

from runners import tasks
from tests.redis_servers import PROGRAMS
from uws_server.queue.base import Work
from uws_server.queue.memory import MemoryQueue
from uws_server.queue.rq import FLAG_MS, RqQueue, RqWorker, connect, queue_name

pytestmark = pytest.mark.covers("3:contract-queue", "3:redis-and-valkey")


@dataclass
class Recorder:
    """Stands for the worker of the attempts: notes what it was woken for, and does what the test says."""

    calls: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    unfinished: int = 0

    def start_waiting(self) -> bool:
        self.calls.append("start")
        self.meanwhile()
        self.unfinished -= 1
        return self.unfinished >= 0

    def stop_due(self) -> None:
        self.calls.append("stop")
        self.meanwhile()


class Harness:
    """A queue, and its workers, run by hand until nothing is left."""

    def __init__(self, queue: MemoryQueue | RqQueue, client: redis.Redis | None) -> None:
        self.queue = queue
        self.recorder = Recorder()
        self._client = client
        tasks.serve(tasks.Context(queue, self.recorder))

    def run(self, work: Work, site: str = "here") -> list[str]:
        """Let the site's workers of this kind do what is there; what they were woken for."""
        self.recorder.calls.clear()
        if isinstance(self.queue, MemoryQueue):
            task = {Work.START: tasks.start_work, Work.STOP: tasks.stop_work}[work]
            try:
                self.queue.run(work, site, task)
            except RuntimeError:
                self.queue.run(work, site, task)
        else:
            assert self._client is not None
            RqWorker(work, site, self._client).run(burst=True)
        return list(self.recorder.calls)


@pytest.fixture(params=["memory", *PROGRAMS])
def harness(request: pytest.FixtureRequest, redis_servers: Callable[[str], str]) -> Iterator[Harness]:
    if request.param == "memory":
        yield Harness(MemoryQueue(), None)
        return
    with connect(redis_servers(request.param)) as client:
        yield Harness(RqQueue(client), client)


def test_work_that_is_too_much_for_one_task_goes_on_in_the_next(harness: Harness) -> None:
    harness.recorder.unfinished = 2
    harness.queue.wake("here")
    assert harness.run(Work.START) == ["start"] * 3


def test_a_wake_up_is_heard_once(harness: Harness) -> None:
    harness.queue.wake("here")
    assert harness.run(Work.START) == ["start"]
    assert harness.run(Work.START) == []


def test_starts_and_stops_have_queues_of_their_own(harness: Harness) -> None:
    harness.queue.stop("here")
    assert harness.run(Work.START) == []
    harness.queue.wake("here")
    assert harness.run(Work.STOP) == ["stop"]
    assert harness.run(Work.START) == ["start"]


def test_sites_have_queues_of_their_own(harness: Harness) -> None:
    harness.queue.wake("there")
    assert harness.run(Work.START, "here") == []
    assert harness.run(Work.START, "there") == ["start"]


@pytest.mark.covers("3:queue-lost-wakeup")
def test_doubled_wake_ups_are_one(harness: Harness) -> None:
    for _ in range(200):
        harness.queue.wake("here")
    assert len(harness.run(Work.START)) == 1


@pytest.mark.covers("3:queue-lost-wakeup")
def test_a_wake_up_during_the_task_is_heard_after_it(harness: Harness) -> None:
    once = iter([None])

    def meanwhile() -> None:
        for _ in once:
            harness.queue.wake("here")

    harness.recorder.meanwhile = meanwhile
    harness.queue.wake("here")
    assert harness.run(Work.START) == ["start", "start"]


def test_a_task_that_fails_does_not_keep_the_next_from_running(harness: Harness) -> None:
    def fail() -> None:
        harness.recorder.meanwhile = lambda: None
        raise RuntimeError("the site is on fire")

    harness.recorder.meanwhile = fail
    harness.queue.wake("here")
    assert harness.run(Work.START) == ["start"]
    harness.queue.wake("here")
    assert harness.run(Work.START) == ["start"]


def test_many_callers_at_once_lose_nothing(harness: Harness) -> None:
    threads = [threading.Thread(target=harness.queue.wake, args=("here",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert harness.run(Work.START) == ["start"]


# -- RQ alone ------------------------------------------------------------------------------------------


def test_a_wake_up_costs_one_round_trip_and_the_first_one_two(redis_url: str) -> None:
    with connect(redis_url) as client:
        queue = RqQueue(client)
        queue.wake("elsewhere")  # RQ asks for the server's version, once
        client.config_resetstat()
        queue.wake("here")
        first = _commands(client)
        client.config_resetstat()
        queue.wake("here")
        assert _commands(client) == {"set": 1, "llen": 1}
        assert first == {"set": 1, "llen": 1, "multi": 1, "sadd": 1, "hset": 2, "rpush": 1, "exec": 1}


@pytest.mark.covers("3:queue-lost-wakeup")
def test_a_wake_up_whose_task_was_lost_is_repeated_by_the_next_one(redis_url: str) -> None:
    with connect(redis_url) as client:
        harness = Harness(RqQueue(client), client)
        harness.queue.wake("here")
        client.delete(f"rq:queue:{queue_name(Work.START, 'here')}")  # a worker died with it
        assert 0 < client.pttl("uws:wake:start:here") <= FLAG_MS
        client.delete("uws:wake:start:here")  # what its expiry does
        harness.queue.wake("here")
        assert harness.run(Work.START) == ["start"]


def test_without_a_worker_the_queue_stays_short(redis_url: str) -> None:
    with connect(redis_url) as client:
        queue = RqQueue(client)
        for _ in range(100):
            client.delete("uws:wake:start:here")
            queue.wake("here")
        assert client.llen(f"rq:queue:{queue_name(Work.START, 'here')}") == 8


def test_nothing_is_left_of_what_was_done(redis_url: str) -> None:
    with connect(redis_url) as client:
        harness = Harness(RqQueue(client), client)
        for _ in range(20):
            harness.queue.wake("here")
            harness.run(Work.START)
        left = [key for key in client.scan_iter() if key.startswith((b"rq:job:", b"rq:results:"))]
        assert left == []


def test_tasks_travel_as_json_and_by_name(redis_url: str) -> None:
    with connect(redis_url) as client:
        RqQueue(client).wake("here")
        (job,) = client.keys("rq:job:*")
        import zlib

        assert (
            zlib.decompress(client.hget(job, "data")) == b'["runners.tasks.start_work", null, ["here"], {}]'
        )


def test_no_answer_of_redis_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    queue = RqQueue(connect("unix:///nowhere/socket"))
    queue.wake("here")
    queue.stop("here")
    assert len(caplog.records) == 2


def _commands(client: redis.Redis) -> dict[str, int]:
    found = {
        name.removeprefix("cmdstat_"): int(what["calls"])
        for name, what in client.info("commandstats").items()
    }
    return {
        name: calls
        for name, calls in found.items()
        if not name.startswith(("config", "info", "client", "hello"))
    }
