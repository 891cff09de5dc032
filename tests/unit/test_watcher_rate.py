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
    assert runner.enough.wait(60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert min(after - before for before, after in pairwise(runner.looks)) >= 0.1
