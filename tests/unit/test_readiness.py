"""Whether a process is ready: what is asked, how often, and for how long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runners.base import Unreachable
from runners.fake import FakeRunner
from tests.waiting import until
from uws_server.readiness import LEASE_SECONDS, LIST_SECONDS, PATIENCE, Leases, Pulse, Readiness, of_watcher
from uws_server.site_calls import CountedRunner

pytestmark = pytest.mark.covers("4:probes")
SITE = "cluster"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_silent_is_asked_once_and_holds_up_nobody() -> None:
    asked = []
    gate = threading.Event()

    def check() -> str:
        asked.append(1)
        gate.wait(120)
        return ""

    readiness = Readiness({"store": check, "other": lambda: ""})
    begun = time.monotonic()
    with ThreadPoolExecutor(40) as many:
        answers = list(many.map(lambda _: readiness.answer(), range(200)))
    assert time.monotonic() - begun < 4 * PATIENCE  # waiting at each call would take five
    assert {(one.ready, one.lines) for one in answers} == {
        (False, ("store: does not answer", "other: ok")),
    }
    assert readiness.answer("other").ready
    assert len(asked) == 1
    gate.set()
    until(lambda: readiness.answer().ready, "the store's answer")


def test_an_answer_is_remembered_for_a_second() -> None:
    clock = Clock()
    said = iter(["is away", "", ""])
    readiness = Readiness({"store": lambda: next(said)}, clock)
    assert readiness.answer().lines == ("store: is away",)
    clock.now += 0.9
    assert readiness.answer().lines == ("store: is away",)
    clock.now += 0.2
    assert readiness.answer().lines == ("store: ok",)


def test_a_check_that_breaks_says_no_more_than_that() -> None:
    def check() -> str:
        raise ValueError("redis://:password@inside")

    answer = Readiness({"store": check}).answer()
    assert (answer.ready, answer.lines) == (False, ("store: cannot be told; the log says why",))


class Watched:
    """What a watcher does, and what its probe finds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pulse = Pulse(self.clock)
        self.leases = Leases(self.pulse)
        self.site = FakeRunner()
        self.runner = CountedRunner(SITE, self.site, lambda: self.pulse.beat("list"))
        self.readiness = Readiness(of_watcher(self.leases, self.pulse, SITE), self.clock)

    def lease(self, held: bool) -> None:
        self.leases.asked(f"watcher:{SITE}", held)

    def later(self, seconds: float) -> dict[str, str]:
        self.clock.now += seconds
        lines = self.readiness.answer().lines
        return dict(line.split(": ") for line in lines)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_watcher_is_ready_while_it_has_its_lease_and_lists(watched: Watched) -> None:
    assert watched.later(2)["lease"] == "neither held nor stood by for 2 s"
    watched.lease(held=True)
    assert watched.later(2) == {"lease": "ok", "site": "has not been listed in full for 4 s"}
    watched.runner.observe()
    assert watched.later(2) == {"lease": "ok", "site": "ok"}


def test_a_watcher_whose_lists_have_stopped_is_not_ready(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> list[object]:
        raise Unreachable("the cluster does not answer")

    watched.lease(held=True)
    watched.runner.observe()
    monkeypatch.setattr(watched.site, "observe", silent)
    with pytest.raises(Unreachable):
        watched.runner.observe()
    watched.lease(held=True)
    assert watched.later(LIST_SECONDS)["site"] == "ok"
    watched.lease(held=True)
    assert watched.later(2) == {
        "lease": "ok",
        "site": f"has not been listed in full for {LIST_SECONDS + 2} s",
    }
    monkeypatch.undo()
    watched.runner.observe()
    assert watched.later(2)["site"] == "ok"


def test_a_watcher_that_stands_by_is_ready_and_one_that_does_nothing_is_not(watched: Watched) -> None:
    watched.lease(held=False)
    assert watched.later(2) == {"lease": "ok", "site": "ok"}
    assert watched.later(LEASE_SECONDS)["lease"] == f"neither held nor stood by for {LEASE_SECONDS + 2} s"
