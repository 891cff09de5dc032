"""WAIT without HTTP: who is woken, by what, and what it costs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests import jobs
from tests.jobs import NOW
from tests.waiting import PATIENCE, until
from uws_server.domain.errors import NotFound
from uws_server.domain.events import AbortRequested, Launched, RunRequested, Started, advance
from uws_server.domain.job import Job
from uws_server.domain.phase import Phase
from uws_server.service.waiting import Waiting
from uws_server.store.base import JobEvent, StoreUnavailable
from uws_server.store.memory import MemoryStore

RUN = RunRequested("local", 1000, 0, NOW)


class Counting(MemoryStore):
    """Counts reads, and can fail to tell of events for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.deaf = False
        self.fault: Exception = StoreUnavailable("no answer")

    def get(self, job_id: str) -> Job | None:
        self.calls["get"] += 1
        return super().get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        self.calls["get_many"] += 1
        return super().get_many(job_ids)

    def events(self, after: str, timeout: float) -> list[JobEvent]:
        if self.deaf:
            self.calls["deaf"] += 1
            raise self.fault
        return super().events(after, min(timeout, 0.2))

    def apply(self, job_id: str, *events: object) -> None:
        for event in events:
            before = super().get(job_id)
            assert before is not None
            assert self.change(before, advance(before, event, NOW))  # type: ignore[arg-type]


@pytest.fixture
def store() -> Counting:
    store = Counting()
    store.create(jobs.job(id="1"))
    return store


@pytest.fixture
def waiting(store: Counting) -> Iterator[Waiting]:
    waiting = Waiting(store, most=50)
    reader = threading.Thread(target=waiting.run)
    reader.start()
    yield waiting
    waiting.stop()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert waiting.count == 0


def there(job: Job | None) -> Job:
    if job is None or job.deleted:
        raise NotFound("gone")
    return job


def in_background(count: int, call: Callable[[], object]) -> tuple[list[object], list[threading.Thread]]:
    answers: list[object] = []

    def one() -> None:
        try:
            answers.append(call())
        except NotFound as error:
            answers.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    return answers, threads


@pytest.mark.covers("UWS-43", "UWS-44", "3:wait-events")
def test_all_who_wait_for_a_job_are_woken_by_one_read(store: Counting, waiting: Waiting) -> None:
    answers, threads = in_background(20, lambda: waiting.wait("1", 60, there).phase)
    until(lambda: waiting.count == 20, lambda: f"{waiting.count} wait")
    reads = store.calls["get"]
    store.apply("1", RUN)
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [Phase.QUEUED] * 20
    assert store.calls["get"] == reads  # nobody read for themselves
    assert store.calls["get_many"] == 1


@pytest.mark.covers("3:wait-race")
def test_an_event_between_reading_and_waiting_is_not_missed(store: Counting, waiting: Waiting) -> None:
    """The change is made at the very moment after the read, before the caller can block."""

    def read_then_change(job: Job | None) -> Job:
        seen = there(job)
        if seen.phase is Phase.PENDING:
            store.apply("1", RUN)
        return seen

    started = time.monotonic()
    assert waiting.wait("1", 60, read_then_change).phase is Phase.QUEUED
    assert time.monotonic() - started < 30


@pytest.mark.covers("UWS-44", "UWS-49")
def test_time_is_up(store: Counting, waiting: Waiting) -> None:
    assert waiting.wait("1", 0, there).phase is Phase.PENDING
    started = time.monotonic()
    assert waiting.wait("1", 0.2, there).phase is Phase.PENDING
    assert time.monotonic() - started >= 0.2


@pytest.mark.covers("UWS-45", "UWS-47")
def test_there_is_no_waiting_for_what_has_happened(store: Counting, waiting: Waiting) -> None:
    assert waiting.wait("1", 60, there, Phase.QUEUED).phase is Phase.PENDING
    store.apply("1", AbortRequested())
    assert waiting.wait("1", 60, there).phase is Phase.ABORTED
    with pytest.raises(NotFound):
        waiting.wait("nobody", 60, there)


def test_progress_and_changes_of_other_jobs_wake_nobody(store: Counting, waiting: Waiting) -> None:
    store.create(jobs.job(id="2"))
    store.apply("1", RUN)
    store.claim("local", jobs.ROOM, 60)
    store.apply("1", Launched(1), Started(1, NOW))
    answers, threads = in_background(3, lambda: waiting.wait("1", 60, there).phase)
    until(lambda: waiting.count == 3, lambda: f"{waiting.count} wait")
    store.report("1", 1, 1, 2)
    store.apply("2", RUN)
    until(lambda: store.last_event() == str(len(store.events("", 0))) + "-0", "all events are read")
    assert answers == []
    store.apply("1", AbortRequested())
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [Phase.ABORTED] * 3


@pytest.mark.covers("UWS-51")
def test_above_the_cap_nobody_waits(store: Counting, waiting: Waiting) -> None:
    _, threads = in_background(50, lambda: waiting.wait("1", 60, there))
    until(lambda: waiting.count == 50, lambda: f"{waiting.count} wait")
    assert waiting.wait("1", 60, there).phase is Phase.PENDING
    store.apply("1", RUN)
    for thread in threads:
        thread.join(PATIENCE)


def test_who_waits_for_a_job_that_is_deleted_is_told(store: Counting, waiting: Waiting) -> None:
    from uws_server.domain.events import DeleteRequested

    answers, threads = in_background(1, lambda: waiting.wait("1", 60, there))
    until(lambda: waiting.count == 1, lambda: f"{waiting.count} wait")
    store.apply("1", DeleteRequested())
    threads[0].join(PATIENCE)
    assert isinstance(answers[0], NotFound)


@pytest.mark.parametrize("fault", [StoreUnavailable("no answer"), ValueError("nobody thought of it")])
def test_what_changed_while_the_stream_could_not_be_read_is_seen(
    store: Counting, waiting: Waiting, fault: Exception
) -> None:
    store.fault = fault
    answers, threads = in_background(2, lambda: waiting.wait("1", 60, there).phase)
    until(lambda: waiting.count == 2, lambda: f"{waiting.count} wait")
    store.deaf = True
    until(lambda: store.calls["deaf"] > 0, "a read that fails")
    store.apply("1", RUN)
    store.deaf = False
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [Phase.QUEUED] * 2


def test_everybody_is_answered_when_the_process_is_to_end(store: Counting) -> None:
    waiting = Waiting(store, most=50)
    answers, threads = in_background(5, lambda: waiting.wait("1", 60, there).phase)
    until(lambda: waiting.count == 5, lambda: f"{waiting.count} wait")
    waiting.stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [Phase.PENDING] * 5
    assert waiting.wait("1", 60, there).phase is Phase.PENDING
