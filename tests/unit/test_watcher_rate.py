"""How often a watcher looks at a site where thousands of attempts bring news all the time."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise

import pytest

from runners.base import Observation, State
from runners.fake import FakeRunner
from tests.engine import Engine
from tests.waiting import PATIENCE
from uws_server.domain.job import Job


class Restless(FakeRunner):
    """A site with so many attempts, and news at every moment."""

    def __init__(self, attempts: int) -> None:
        super().__init__()
        self.looks: list[float] = []
        self.enough = threading.Event()
        self._all = [Observation(f"{number:026d}", 1, State.RUNNING) for number in range(attempts)]

    def observe(self) -> list[Observation]:
        self.looks.append(time.monotonic())
        if len(self.looks) == 5:
            self.enough.set()
        return self._all

    def wait(self, timeout: float) -> None:
        """There is always news."""


@pytest.mark.covers("4:watcher-rate")
def test_thousands_of_attempts_are_not_gone_through_at_every_word_of_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)  # nobody knows these jobs, and the watcher says so
    engine = Engine()
    runner = engine.runner = Restless(5000)
    stop = threading.Event()
    thread = threading.Thread(target=engine.another_watcher("restless").run, args=(stop,))
    thread.start()
    assert runner.enough.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert min(after - before for before, after in pairwise(runner.looks)) >= 0.1


@pytest.mark.covers("4:watcher-rate")
def test_what_is_looked_at_once_more_is_so_a_few_in_each_pass(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    engine = Engine()
    engine.runner = Restless(3000)
    engine.watcher = engine.another_watcher("watcher a")
    read: list[str] = []
    get = engine.store.get

    def counted(job_id: str) -> Job | None:
        read.append(job_id)
        return get(job_id)

    monkeypatch.setattr(engine.store, "get", counted)
    passes: list[int] = []
    for _ in range(120):  # a second each, and all is to be looked at each minute
        before = len(read)
        engine.look()
        passes.append(len(read) - before)
        engine.now += 1000
    assert passes[0] == 3000
    assert sum(passes[1:60]) == 0
    assert sum(passes[60:]) == 3000
    assert max(passes[1:]) <= 150
