"""What every runner must do, shown for the double, the local runner in each isolation, and a real cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from runners.base import (
    Busy,
    Cause,
    Observation,
    Outcome,
    Runner,
    State,
    Unreachable,
    Unrunnable,
    no_doubt,
)
from runners.fake import FakeRunner
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.kubernetes_site import kubernetes_site
from tests.local_site import LocalSite, local_site, modes
from tests.waiting import PATIENCE, until
from uws_server.domain.runspec import RunSpec

JOB = "01234567890123456789abcdef"
URL, TOKEN = "http://127.0.0.1:9/agent/v1", "token"


class Site(Protocol):
    """A runner, and the power over what its jobs do."""

    @property
    def runner(self) -> Runner:
        """The runner."""

    @property
    def url(self) -> str:
        """Where its agents find their door."""

    def token(self, spec: RunSpec) -> str:
        """What the attempt's agent says there."""

    def impossible(self) -> RunSpec:
        """A run spec that the site can never run, for want of an image or of a way to run one."""

    def job(self, does: str) -> RunSpec:
        """A run spec whose code does "succeed", "fail" with code 3, or "stay" until it is stopped."""

    def reach(self, spec: RunSpec, *states: State) -> Observation:
        """See the attempt to one of these states."""

    def another(self) -> Runner:
        """A runner that a server started later would make on the same site."""

    def lose(self, spec: RunSpec) -> None:
        """Break the running attempt off."""

    def runs(self, spec: RunSpec) -> int:
        """How often the code was started."""


class OfFake:
    url = URL

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self._does: dict[str, str] = {}
        self._count = 0

    def job(self, does: str) -> RunSpec:
        self._count += 1
        spec = RunSpec(f"{self._count:026d}", 1, "test", "command", (does,))
        self._does[spec.job_id] = does
        return spec

    def token(self, spec: RunSpec) -> str:
        return TOKEN

    def impossible(self) -> RunSpec:
        return replace(self.job("succeed"), kind="container", image="busybox")

    def reach(self, spec: RunSpec, *states: State) -> Observation:
        key = spec.job_id, spec.attempt
        if self._seen(key).state is State.STAGING and State.STAGING not in states:
            self.runner.run(*key)
        if self._seen(key).state is State.RUNNING and State.RUNNING not in states:
            failed = Outcome(Cause.FAILED, "The program ended with exit code 3.", exit_code=3)
            self.runner.finish(*key)
            if self._does[spec.job_id] == "fail":
                self.runner.end(*key, failed)
            else:
                self.runner.end(*key)
        assert self._seen(key).state in states
        return self._seen(key)

    def _seen(self, key: tuple[str, int]) -> Observation:
        return next(seen for seen in self.runner.observe() if (seen.job_id, seen.attempt) == key)

    def another(self) -> Runner:
        return FakeRunner(self.runner.site)

    def lose(self, spec: RunSpec) -> None:
        self.runner.lose(spec.job_id, spec.attempt)

    def runs(self, spec: RunSpec) -> int:
        return self.runner.site.runs.count((spec.job_id, spec.attempt))


_DOES = {"succeed": "true", "fail": "exit 3", "stay": "while [ ! -e go ]; do sleep 0.05; done"}


class OfLocal:
    url = URL

    def __init__(self, site: LocalSite) -> None:
        self._site = site
        self.runner: Runner = site.runner
        self.another = site.another
        self.reach = site.reached

    def job(self, does: str) -> RunSpec:
        return self._site.spec("/bin/sh", "-c", f"echo run >>runs; {_DOES[does]}")

    def token(self, spec: RunSpec) -> str:
        return TOKEN

    def impossible(self) -> RunSpec:
        return replace(self.job("succeed"), kind="container", image="busybox")

    def lose(self, spec: RunSpec) -> None:
        until(lambda: self.runs(spec), "the first line of user code")
        self._site.kill_supervisor(spec)

    def runs(self, spec: RunSpec) -> int:
        file = self._site.attempt(spec) / "work/outputs/runs"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture(scope="session")
def agents(cluster: Cluster) -> Cluster:
    """The cluster, with the agent's image."""
    cluster.import_image(images.agent_image())
    return cluster


@pytest.fixture(
    params=["fake", *modes(), pytest.param("kubernetes", marks=pytest.mark.covers("4:contract-runner"))]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "fake":
        yield OfFake()
    elif request.param == "kubernetes":
        cluster: Cluster = request.getfixturevalue("agents")
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        with (
            cluster.namespace(restricted) as namespace,
            kubernetes_site(cluster, namespace, tmp_path / "objects") as site,
        ):
            yield site
    else:
        with local_site(tmp_path / "site", request.param) as local:
            yield OfLocal(local)


def start(
    site: Site, spec: RunSpec, runner: Runner | None = None, confirm: Callable[[], None] = no_doubt
) -> None:
    """Start an attempt as a worker does."""
    (runner or site.runner).start(spec, site.url, site.token(spec), confirm)


def observed(runner: Runner) -> dict[tuple[str, int], Observation]:
    return {(seen.job_id, seen.attempt): seen for seen in runner.observe()}


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_an_attempt_runs_to_its_end(site: Site) -> None:
    spec = site.job("succeed")
    start(site, spec)
    seen = site.reach(spec, State.ENDED)
    assert seen.outcome == Outcome(Cause.SUCCEEDED, exit_code=0)
    assert seen.started is not None
    assert seen.ended is not None
    assert time.time() * 1000 - 60_000 < seen.started <= seen.ended <= time.time() * 1000 + 1
    assert site.runs(spec) == 1


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_a_failure_tells_its_exit_code(site: Site) -> None:
    spec = site.job("fail")
    start(site, spec)
    outcome = site.reach(spec, State.ENDED).outcome
    assert outcome is not None
    assert (outcome.cause, outcome.exit_code, outcome.transient) == (Cause.FAILED, 3, False)
    assert outcome.message == "The program ended with exit code 3."


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_starting_again_starts_nothing(site: Site) -> None:
    spec = site.job("stay")
    start(site, spec)
    site.reach(spec, State.RUNNING)
    start(site, spec, site.another())
    site.runner.stop(spec.job_id, 1)
    site.reach(spec, State.ENDED)
    start(site, spec)
    assert observed(site.runner)[spec.job_id, 1].state is State.ENDED
    assert site.runs(spec) <= 1


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_two_starts_at_once_run_it_once(site: Site) -> None:
    spec = site.job("succeed")
    together = threading.Barrier(6)

    def begin() -> None:
        runner = site.another()
        together.wait()
        start(site, spec, runner)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    site.reach(spec, State.ENDED)
    assert site.runs(spec) == 1


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_stop_ends_a_running_attempt(site: Site) -> None:
    spec = site.job("stay")
    start(site, spec)
    assert site.reach(spec, State.RUNNING).outcome is None
    site.runner.stop(spec.job_id, 1)
    outcome = site.reach(spec, State.ENDED).outcome
    assert outcome is not None
    assert (outcome.cause, outcome.message) == (Cause.STOPPED, "The job was stopped on request.")


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_stop_before_start_means_never(site: Site) -> None:
    spec = site.job("succeed")
    site.runner.stop(spec.job_id, 1)
    start(site, spec, site.another())
    seen = observed(site.runner)[spec.job_id, 1]
    assert seen.state is State.ENDED
    assert seen.outcome == Outcome(Cause.STOPPED, "The job was stopped before it started.")
    assert seen.started is None
    assert site.runs(spec) == 0


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_stop_after_the_end_changes_nothing(site: Site) -> None:
    spec = site.job("fail")
    start(site, spec)
    before = site.reach(spec, State.ENDED)
    site.runner.stop(spec.job_id, 1)
    site.runner.stop(spec.job_id, 1)
    assert observed(site.runner)[spec.job_id, 1] == before


@pytest.mark.covers("3:local-runner", "3:local-supervisor")
def test_a_later_runner_sees_and_stops_what_an_earlier_started(site: Site) -> None:
    spec = site.job("stay")
    start(site, spec)
    site.reach(spec, State.RUNNING)
    later = site.another()
    assert observed(later)[spec.job_id, 1].state is State.RUNNING
    later.stop(spec.job_id, 1)
    assert site.reach(spec, State.ENDED).outcome


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_what_is_broken_off_is_lost_and_never_run_again(site: Site) -> None:
    spec = site.job("stay")
    start(site, spec)
    site.reach(spec, State.RUNNING)
    site.lose(spec)
    seen = site.reach(spec, State.LOST)
    assert seen.outcome is not None
    assert (seen.outcome.cause, seen.outcome.transient) == (Cause.LOST, True)
    start(site, spec, site.another())
    assert observed(site.runner)[spec.job_id, 1].state is State.LOST
    assert site.runs(spec) == 1
    second = replace(spec, attempt=2)
    start(site, second)
    site.reach(second, State.RUNNING)
    assert {1, 2} == {attempt for _, attempt in observed(site.runner)}


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_forget_removes_only_what_has_ended(site: Site) -> None:
    spec = site.job("stay")
    start(site, spec)
    site.reach(spec, State.RUNNING)
    with pytest.raises(ValueError, match="has not ended"):
        site.runner.forget(spec.job_id, 1)
    site.runner.stop(spec.job_id, 1)
    site.reach(spec, State.ENDED)
    site.runner.forget(spec.job_id, 1)
    assert observed(site.runner) == {}
    site.runner.forget(spec.job_id, 1)
    assert observed(site.another()) == {}


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_a_stop_that_comes_after_the_end_leaves_nothing(site: Site) -> None:
    """Of a worker that was paused meanwhile: the attempt is seen again, as ended, and forgotten again."""
    spec = site.job("succeed")
    start(site, spec)
    site.reach(spec, State.ENDED)
    site.runner.forget(spec.job_id, 1)
    site.runner.stop(spec.job_id, 1)
    seen = site.reach(spec, State.ENDED)
    assert (seen.started, seen.outcome and seen.outcome.cause) == (None, Cause.STOPPED)
    site.runner.forget(spec.job_id, 1)
    assert observed(site.another()) == {}


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_wait_returns_with_news_or_in_time(site: Site) -> None:
    site.runner.wait(0)
    begun = time.monotonic()
    site.runner.wait(0.2)
    assert 0.15 < time.monotonic() - begun < PATIENCE
    spec = site.job("succeed")
    waiting = threading.Thread(target=site.runner.wait, args=(600,))
    waiting.start()
    start(site, spec, site.another())
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_what_the_site_cannot_run_is_refused(site: Site) -> None:
    spec = site.impossible()
    assert "image" in refusal(site, spec)
    assert site.runs(spec) == 0


def refusal(site: Site, spec: RunSpec) -> str:
    """Why the site never runs it: said at once, or where the attempt is then seen."""
    try:
        start(site, spec)
    except Unrunnable as said:
        assert observed(site.runner) == {}
        return str(said)
    outcome = observed(site.runner)[spec.job_id, 1].outcome
    assert outcome is not None
    assert outcome.cause is Cause.REFUSED
    return outcome.message


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_what_is_not_confirmed_is_not_started(site: Site) -> None:
    """Of a worker that was paused for long: others have started it, seen it to its end and forgotten it."""
    spec = site.job("succeed")
    asked = []

    def doubt() -> None:
        asked.append(observed(site.runner))
        raise LookupError("gone on without me")

    with pytest.raises(LookupError, match="without me"):
        start(site, spec, confirm=doubt)
    for known in (*asked, observed(site.runner)):
        assert {seen.state for seen in known.values()} <= {State.UNSTARTED}
    assert len(asked) == 1
    assert site.runs(spec) == 0
    start(site, spec)
    site.reach(spec, State.ENDED)
    assert site.runs(spec) == 1


@pytest.mark.covers("3:contract-runner", "3:lost-attempt")
def test_what_was_started_before_the_question_is_in_the_answer_until_it_is_forgotten(site: Site) -> None:
    """The list is whole: that is how the watcher tells that an attempt is lost."""
    for spec in (site.job("succeed"), site.job("fail"), stays := site.job("stay")):
        start(site, spec)
        assert (spec.job_id, 1) in observed(site.another())
    site.reach(stays, State.RUNNING)
    site.runner.stop(stays.job_id, 1)
    site.reach(stays, State.ENDED)
    assert len(observed(site.runner)) == 3


@pytest.mark.covers("3:contract-runner", "3:lost-attempt")
def test_the_double_can_forget_and_be_silent() -> None:
    runner = FakeRunner()
    runner.start(RunSpec(JOB, 1, "test", "command", ("x",)), URL, TOKEN)
    reappear = runner.vanish(JOB, 1)
    assert observed(runner) == {}
    reappear()
    assert list(observed(runner)) == [(JOB, 1)]
    runner.unreachable = "it is silent"
    with pytest.raises(Unreachable, match="silent"):
        runner.observe()


@pytest.mark.covers("3:local-runner", "3:contract-runner")
def test_the_double_can_be_busy_and_its_jobs_deaf() -> None:
    runner = FakeRunner()
    spec = RunSpec(JOB, 1, "test", "command", ("x",))
    runner.busy = "full"
    with pytest.raises(Busy, match="full"):
        runner.start(spec, URL, TOKEN)
    assert observed(runner) == {}
    runner.busy, runner.deaf = "", True
    runner.start(spec, URL, TOKEN)
    runner.run(JOB, 1)
    runner.stop(JOB, 1)
    assert observed(runner)[JOB, 1].state is State.RUNNING
    with pytest.raises(ValueError, match="is running"):
        runner.run(JOB, 1)
