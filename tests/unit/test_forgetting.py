"""Forgetting what has ended keeps back no news, is tried again, and survives the watcher."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from runners import forgetting
from runners.base import Attempt, State
from runners.fake import FakeRunner, FakeSite
from runners.forgetting import Forgetting
from tests.engine import Engine
from tests.waiting import PATIENCE, until
from uws_server.domain.phase import Phase

pytestmark = pytest.mark.covers("4:watcher-forgets-beside")


class Site:
    """What a site does when it is told to forget."""

    def __init__(self, forget: Callable[[str, int], None]) -> None:
        self.forget = forget


class Slow(FakeRunner):
    """A site that takes as long to forget as the test says."""

    def __init__(self, site: FakeSite) -> None:
        super().__init__(site)
        self.begun: list[Attempt] = []
        self.let = threading.Event()

    def forget(self, job_id: str, attempt: int) -> None:
        self.begun.append((job_id, attempt))
        assert self.let.wait(PATIENCE)
        super().forget(job_id, attempt)


def test_ends_are_noted_while_the_site_still_forgets_others() -> None:
    engine = Engine()
    runner = engine.runner = Slow(engine.site)
    jobs = [engine.submit() for _ in range(6)]
    engine.work()
    for job in jobs:
        runner.run(job.id, 1)
    stop = threading.Event()
    watching = threading.Thread(target=engine.another_watcher("slow").run, args=(stop,))
    watching.start()
    try:
        for job in jobs:  # more than are forgotten at once
            engine.hand_in(job)
            runner.end(job.id, 1)
            until(lambda job=job: engine.job(job.id).phase is Phase.COMPLETED, "the phase")  # type: ignore[misc]
        assert len(runner.site.attempts) == len(jobs)
        runner.let.set()
        until(lambda: not runner.site.attempts, "all are forgotten")
    finally:
        runner.let.set()
        stop.set()
        watching.join(PATIENCE)
    assert not watching.is_alive()
    assert Counter(runner.begun) == {(job.id, 1): 1 for job in jobs}


def test_what_a_watcher_did_not_live_to_have_forgotten_the_next_one_does() -> None:
    engine = Engine()
    job = engine.submit()
    engine.work()
    engine.runner.run(job.id, 1)
    engine.hand_in(job)
    engine.runner.end(job.id, 1)
    engine.watcher.look(engine.lease("watcher:local", "watcher a"))  # and then it dies
    assert engine.job(job.id).phase is Phase.COMPLETED
    assert [one.state for one in engine.runner.observe()] == [State.ENDED]
    engine.now += 11_000
    other = engine.another_watcher("watcher b")
    other.look(engine.lease("watcher:local", "watcher b"))
    other.forget()
    assert not engine.site.attempts


def test_what_cannot_be_forgotten_is_tried_again_and_keeps_back_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forgetting, "_PAUSE", 0.01)
    tried: Counter[str] = Counter()

    def forget(job_id: str, attempt: int) -> None:
        tried[job_id] += 1
        if job_id == "odd" and tried[job_id] < 5:
            raise OSError("not now")

    asked = Forgetting(Site(forget))
    with asked.going_on():
        asked.ask(("odd", 1))
        for number in range(50):
            asked.ask((f"{number}", 1))
        until(lambda: tried["odd"] == 5 and len(tried) == 51, "all tries")
    assert tried.total() == 55
    assert "job odd attempt 1 cannot be forgotten just now" in caplog.text


def test_nothing_is_forgotten_twice_at_once() -> None:
    under_way = threading.Barrier(2, timeout=PATIENCE)
    calls: list[str] = []

    def forget(job_id: str, attempt: int) -> None:
        calls.append(job_id)
        under_way.wait()
        under_way.wait()

    asked = Forgetting(Site(forget))
    with asked.going_on():
        asked.ask(("a", 1))
        under_way.wait()
        asked.ask(("a", 1))
        asked.ask(("a", 1))
        under_way.wait()
    assert calls == ["a"]


def test_what_fails_again_and_again_is_tried_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_PAUSE", 0.02)
    monkeypatch.setattr(forgetting, "_LONGEST_PAUSE", 0.1)
    tries: list[float] = []

    def forget(*_: object) -> None:
        tries.append(time.monotonic())
        raise OSError("never")

    asked = Forgetting(Site(forget))
    with asked.going_on():
        asked.ask(("a", 1))
        until(lambda: len(tries) == 7, "seven tries")
    between = [later - earlier for earlier, later in pairwise(tries)]
    assert all(pause >= least for pause, least in zip(between, (0.02, 0.04, 0.08, 0.1, 0.1), strict=False))


def test_a_site_that_hangs_holds_up_the_end_for_one_while_not_for_one_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgetting, "_LAST", 3.0)
    begun: list[str] = []
    let = threading.Event()

    def forget(job_id: str, attempt: int) -> None:
        begun.append(job_id)
        assert let.wait(PATIENCE)

    asked = Forgetting(Site(forget))
    try:
        with asked.going_on():
            for number in range(4):
                asked.ask((f"{number}", 1))
            until(lambda: len(begun) == 4, "all at once")
            end = time.monotonic()
        assert 2.9 < time.monotonic() - end < 11  # one after the other they would take 12 s
    finally:
        let.set()
