"""A process that is paused and wakes up when others have gone on without it does no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.machine import Machine
from tests.crash.test_windows import ended, windows
from tests.waiting import until
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Workload
from uws_server.factory import clock


def marker(machine: Machine, role: str) -> int:
    return len((machine.directory / f"{role}.log").read_text())


def said(machine: Machine, role: str, since: int, words: str) -> None:
    log: Path = machine.directory / f"{role}.log"
    until(lambda: words in log.read_text()[since:], lambda: f"{words!r} of {role}: {machine.tail(role)}")


@pytest.mark.covers("3:crash-start", "3:queue-claim")
def test_a_worker_that_comes_too_late_starts_nothing_again(machine: Machine) -> None:
    machine.replace("start", "before start", "pause")
    job_id = machine.submit()
    machine.paused("start")
    machine.start("start-2")
    ended(machine, job_id)  # by the second worker, when the claim had lapsed
    machine.quiet()  # the site has forgotten the attempt
    machine.end("start-2")
    machine.resume("start")
    other = machine.submit()
    ended(machine, other)  # so the first one has come through
    ended(machine, job_id)
    assert machine.gate.attempts(job_id) == {1: 1}


@pytest.mark.covers("3:crash-start", "3:crash-delete")
def test_a_job_aborted_when_its_claim_had_lapsed_is_not_started(machine: Machine) -> None:
    machine.replace("start", "before start", "pause")
    job_id = machine.submit()
    machine.paused("start")
    until(lambda: machine.job(job_id).workload is Workload.WAITING, lambda: machine.describe(job_id))
    machine.post(job_id, "phase", PHASE="ABORT")
    machine.resume("start")
    ended(machine, machine.submit())
    ended(machine, job_id, "ABORTED")
    assert machine.gate.attempts(job_id) == {}


@pytest.mark.covers("3:crash-start", "3:crash-delete")
def test_what_runs_although_it_was_aborted_while_it_waited_is_stopped(machine: Machine) -> None:
    """The worker died after it had started the job, and the watcher did not see it in time."""
    machine.gate.shut()
    machine.replace("watch", "before taken", "pause")
    machine.replace("start", "after start", "pause")
    job_id = machine.submit()
    machine.running(job_id)
    machine.paused("watch")
    machine.paused("start")
    until(lambda: machine.job(job_id).workload is Workload.WAITING, lambda: machine.describe(job_id))
    machine.post(job_id, "phase", PHASE="ABORT")
    machine.resume("watch")
    until(lambda: not machine.gate.waiting(), lambda: machine.describe(job_id))
    machine.resume("start")
    machine.quiet()
    ended(machine, job_id, "ABORTED")


@pytest.mark.covers("3:crash-finish")
@pytest.mark.parametrize(
    "point", windows(["before fenced change"], ["before started", "before succeeded", "before forget"])
)
def test_a_watcher_that_wakes_after_its_lease(machine: Machine, point: str) -> None:
    machine.replace("watch", point, "pause")
    job_id = machine.submit()
    machine.paused("watch")
    machine.start("watch-2")
    ended(machine, job_id)
    version = machine.job(job_id).version
    since = marker(machine, "watch")
    machine.resume("watch")
    if point == "before fenced change":
        said(machine, "watch", since, "has passed to another holder")
    machine.end("watch-2")
    ended(machine, machine.submit())  # the first one works on, under a new lease
    assert machine.job(job_id).version == version


@pytest.mark.covers("3:crash-delete")
@pytest.mark.parametrize(
    "point", windows(["before fenced change"], ["before clearing", "after clearing", "before archived"])
)
def test_a_reconciler_that_wakes_after_its_lease(machine: Machine, point: str) -> None:
    job_id = machine.submit()
    ended(machine, job_id)
    machine.replace("reconcile", point, "pause")
    machine.post(job_id, "destruction", DESTRUCTION=to_iso(clock()))
    machine.paused("reconcile")
    machine.start("reconcile-2")
    until(lambda: machine.job(job_id).phase == "ARCHIVED", lambda: machine.describe(job_id))
    version = machine.job(job_id).version
    since = marker(machine, "reconcile")
    machine.resume("reconcile")
    if point == "before fenced change":
        said(machine, "reconcile", since, "has passed to another holder")
    machine.end("reconcile-2")
    other = machine.submit()
    ended(machine, other)
    machine.post(other, "destruction", DESTRUCTION=to_iso(clock()))
    until(lambda: machine.job(other).phase == "ARCHIVED", lambda: machine.describe(other))
    assert machine.job(job_id).version == version
