"""`kill -9` at every window of submit, start, finish and delete.

Each test lets one process kill itself just before or after a named call (tests/crash/points.py), starts
it again as `up` would, and asks for the same: no job lost, the right end, user code started at most once
in each attempt, as many attempts as promised, and afterwards (fixture `machine`) no directory, process,
control group, slot, claim or index entry left.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.machine import Machine, Refused
from tests.waiting import until
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Job
from uws_server.factory import clock


def windows(usual: list[Any], others: list[Any]) -> list[Any]:
    """The ones that are tried in every run, and the ones that are tried in long runs."""
    return [
        *usual,
        *(pytest.param(*one if isinstance(one, tuple) else (one,), marks=pytest.mark.long) for one in others),
    ]


def ended(machine: Machine, job_id: str, phase: str = "COMPLETED", attempts: int = 1) -> Job:
    """Wait for the end, and see that it is the promised one."""
    job = machine.settled(job_id)
    assert job.phase == phase, machine.describe(job_id)
    assert job.attempt == attempts, machine.describe(job_id)
    starts = machine.gate.attempts(job_id)
    assert max(starts.values(), default=0) <= 1, f"started more than once: {starts}"
    if phase == "COMPLETED":
        assert starts[attempts] == 1
        assert machine.result(job_id) == f"attempt {attempts}\n"
        assert machine.result(job_id, "stdout") == f"attempt {attempts}\n"
    return job


def running(machine: Machine, job_id: str, attempt: int) -> int:
    """The supervisor of an attempt whose code runs."""

    def look() -> list[int]:
        if not machine.gate.attempts(job_id).get(attempt):
            return []
        return [pid for pid, name in machine.supervisors() if name == f"{job_id}.{attempt}"]

    pid: int = until(look, lambda: machine.describe(job_id))[0]
    return pid


# -- submit ---------------------------------------------------------------------------------------------


@pytest.mark.covers("3:crash-submit")
@pytest.mark.parametrize("point", windows(["after create", "before wake"], ["before create", "after wake"]))
def test_submit_and_start_in_one(machine: Machine, point: str) -> None:
    before = machine.client.zcard("uws:l:probe::COMPLETED")
    machine.replace("web", point)
    job_id = machine.submit()
    machine.died("web")
    ended(machine, job_id)
    jobs = machine.insist("GET", "/probe/async?LAST=1")[1].decode()
    assert job_id in jobs
    assert machine.client.zcard("uws:l:probe::COMPLETED") == before + 1  # not twice, either


@pytest.mark.covers("3:crash-submit")
@pytest.mark.parametrize("point", windows(["after run"], ["before run", "before wake"]))
def test_run(machine: Machine, point: str) -> None:
    job_id = machine.submit(run=False)
    machine.replace("web", point)
    # Where it was QUEUED before the answer was lost, the server says when asked again that it cannot be run.
    machine.post(job_id, "phase", also=403, PHASE="RUN")
    machine.died("web")
    ended(machine, job_id)


@pytest.mark.covers("3:crash-submit")
@pytest.mark.parametrize(
    "point", windows(["after upload"], ["after schedule", "before upload", "before create", "after create"])
)
def test_submit_with_upload(machine: Machine, point: str) -> None:
    machine.replace("web", point)
    job_id = machine.submit(upload=True)
    machine.died("web")
    ended(machine, job_id)
    assert machine.insist("GET", f"/probe/async/{job_id}/parameters/note")[1] == b"note"
    # Content without a job is cleared away within the hour; the hour is made to be over.
    for other in machine.client.zrange("uws:due:clearance", 0, -1):
        assert other != job_id
        machine.client.zadd("uws:due:clearance", {str(other): clock()})
    machine.quiet()
    stored = {path.parts[-3] for path in (machine.data / "objects").rglob("parameters/*")}
    assert stored <= machine.ids


# -- start ----------------------------------------------------------------------------------------------

WORKER = windows(
    ["after claim", "after mkdir", "after spec", "after spawn", "before launched"],
    ["before claim", "before start", "after start", "after launched"],
)


@pytest.mark.covers("3:crash-start", "3:queue-claim", "3:reconciler")
@pytest.mark.parametrize("point", WORKER)
def test_worker_dies_while_it_starts_a_job(machine: Machine, point: str) -> None:
    machine.replace("start", point)
    job_id = machine.submit()
    machine.died("start")
    ended(machine, job_id)


@pytest.mark.covers("3:crash-start", "3:local-supervisor")
@pytest.mark.parametrize("point", ["supervisor before mark", "supervisor after mark"])
def test_supervisor_dies_before_the_code_runs(machine: Machine, point: str) -> None:
    machine.replace("start", point)
    job_id = machine.submit()
    ended(machine, job_id, attempts=2)
    assert machine.gate.attempts(job_id) == {2: 1}


@pytest.mark.covers("3:crash-start", "3:local-supervisor")
def test_supervisor_dies_while_the_code_runs(machine: Machine) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    os.kill(running(machine, job_id, 1), signal.SIGKILL)
    until(lambda: 2 in machine.gate.attempts(job_id), lambda: machine.describe(job_id))
    assert machine.job(job_id).phase == "EXECUTING"
    machine.gate.open()
    ended(machine, job_id, attempts=2)
    assert machine.gate.attempts(job_id) == {1: 1, 2: 1}


@pytest.mark.covers("3:crash-start")
def test_no_attempt_is_left_when_every_supervisor_dies(machine: Machine) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    for attempt in (1, 2):
        os.kill(running(machine, job_id, attempt), signal.SIGKILL)
    job = ended(machine, job_id, "ERROR", attempts=2)
    assert job.error
    assert job.error.transient


@pytest.mark.covers("3:crash-start", "3:up-comes-back")
@pytest.mark.parametrize("role", windows(["redis"], ["web", "start", "stop", "watch", "reconcile"]))
def test_any_server_process_dies_while_the_code_runs(machine: Machine, role: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    machine.running(job_id)
    machine.kill(role)
    machine.gate.open()
    ended_before = machine.gate.starts[job_id, 1]
    machine.revive()
    ended(machine, job_id)
    assert ended_before == 1


# -- finish ---------------------------------------------------------------------------------------------


@pytest.mark.covers("3:crash-finish", "3:local-supervisor")
@pytest.mark.parametrize(
    "point", windows(["supervisor after exit"], ["supervisor before exit", "supervisor before last word"])
)
def test_supervisor_dies_after_the_code(machine: Machine, point: str) -> None:
    machine.replace("start", point)
    job_id = machine.submit()
    ended(machine, job_id, attempts=2)
    assert machine.gate.attempts(job_id) == {1: 1, 2: 1}


@pytest.mark.covers("3:crash-finish")
def test_supervisor_dies_after_its_last_word(machine: Machine) -> None:
    machine.replace("start", "supervisor after last word")
    ended(machine, machine.submit())


@pytest.mark.covers("3:crash-finish", "3:agent-resume")
@pytest.mark.parametrize(
    "point",
    windows(
        ["agent before put", "agent after manifest"],
        ["agent before links", "agent after put", "agent before manifest"],
    ),
)
def test_agent_dies(machine: Machine, point: str) -> None:
    mark: Path = machine.attempts().parent / "agent-was-killed"
    mark.unlink(missing_ok=True)
    machine.replace("start", point)
    job_id = machine.submit()
    ended(machine, job_id)
    assert mark.exists()


@pytest.mark.covers("3:crash-finish")
@pytest.mark.parametrize(
    "point", windows(["after manifest"], ["before result", "after result", "before manifest"])
)
def test_web_dies_while_results_come_in(machine: Machine, point: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    machine.running(job_id)
    machine.replace("web", point)
    machine.gate.open()
    machine.died("web")
    ended(machine, job_id)


WATCHER = windows(
    ["before succeeded", "after succeeded", "within forget"],
    ["before started", "after started", "before forget", "after forget"],
)


@pytest.mark.covers("3:crash-finish")
@pytest.mark.parametrize("point", WATCHER)
def test_watcher_dies(machine: Machine, point: str) -> None:
    machine.replace("watch", point)
    job_id = machine.submit()
    machine.died("watch")
    ended(machine, job_id)


@pytest.mark.covers("3:crash-finish")
@pytest.mark.parametrize("point", windows(["after lost"], ["before lost"]))
def test_watcher_dies_when_an_attempt_is_lost(machine: Machine, point: str) -> None:
    machine.replace("start", "supervisor after mark")
    machine.replace("watch", point)
    job_id = machine.submit()
    machine.died("watch")
    ended(machine, job_id, attempts=2)


@pytest.mark.covers("3:crash-start", "3:lost-attempt")
@pytest.mark.parametrize("point", windows(["before lost"], ["after lost"]))
def test_an_attempt_vanishes_and_the_watcher_dies_over_it(machine: Machine, point: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    running(machine, job_id, 1)
    machine.replace("watch", point)
    directory, elsewhere = machine.attempts() / f"{job_id}.1", machine.attempts().parent / "elsewhere"
    directory.rename(elsewhere)
    machine.died("watch")
    running(machine, job_id, 2)
    assert "may have run twice" in machine.reached(job_id, "EXECUTING").reason
    elsewhere.rename(directory)  # it runs still, and is stopped
    until(lambda: not directory.exists(), lambda: machine.describe(job_id))
    machine.gate.open()
    ended(machine, job_id, attempts=2)
    assert machine.gate.attempts(job_id) == {1: 1, 2: 1}


# -- abort, delete, destroy -----------------------------------------------------------------------------


@pytest.mark.covers("3:crash-delete")
@pytest.mark.parametrize(
    ("role", "point"),
    windows(
        [("web", "after abort"), ("stop", "before stop"), ("watch", "after gone")],
        [
            *(("web", "before abort"), ("stop", "within stop"), ("stop", "after stop")),
            *(("watch", "before gone"), ("watch", "before forget")),
        ],
    ),
)
def test_abort(machine: Machine, role: str, point: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    machine.running(job_id)
    machine.replace(role, point)
    machine.post(job_id, "phase", PHASE="ABORT")
    machine.died(role)
    job = ended(machine, job_id, "ABORTED")
    assert job.logs is not None
    assert not machine.gate.waiting()


@pytest.mark.covers("3:crash-delete")
@pytest.mark.parametrize(
    ("role", "point"),
    windows(
        [("web", "after abort"), ("watch", "after gone"), ("reconcile", "after clearing")],
        [
            *(
                ("web", "before delete"),
                ("stop", "before stop"),
                ("stop", "after stop"),
                ("watch", "before gone"),
            ),
            *(
                ("reconcile", "before clearing"),
                ("reconcile", "before cleared"),
                ("reconcile", "after cleared"),
            ),
        ],
    ),
)
def test_delete(machine: Machine, role: str, point: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    machine.running(job_id)
    machine.replace(role, point)
    machine.insist("DELETE", f"/probe/async/{job_id}", also=404)  # where the answer was lost, not the wish
    machine.died(role)
    with pytest.raises(Refused, match="404"):
        machine.insist("GET", f"/probe/async/{job_id}")
    until(lambda: machine.store.get(job_id) is None, lambda: machine.describe(job_id))
    assert not machine.objects(job_id)
    assert not machine.gate.waiting()


@pytest.mark.covers("3:crash-delete", "3:destruction")
@pytest.mark.parametrize(
    "point",
    windows(
        ["after due", "after archived"],
        [
            "before due",
            "before archived",
            "before clearing",
            "after clearing",
            "before cleared",
            "after cleared",
        ],
    ),
)
def test_archive(machine: Machine, point: str) -> None:
    machine.gate.shut()
    job_id = machine.submit()
    machine.running(job_id)
    machine.replace("reconcile", point)
    machine.post(job_id, "destruction", DESTRUCTION=to_iso(clock()))
    machine.died("reconcile")
    until(lambda: machine.job(job_id).phase == "ARCHIVED", lambda: machine.describe(job_id))
    ended(machine, job_id, "ARCHIVED")
    until(lambda: not machine.objects(job_id), lambda: str(machine.objects(job_id)))
