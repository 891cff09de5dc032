from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import jobs
from tests.jobs import ERROR, NOW, RESULTS
from uws_server.domain.errors import Forbidden
from uws_server.domain.events import (
    AbortRequested,
    AttemptLost,
    ClaimLapsed,
    DeleteRequested,
    DestructionDue,
    DurationChanged,
    Event,
    Failed,
    Gone,
    Launched,
    ParametersPut,
    Pulled,
    RunRequested,
    Started,
    Succeeded,
    TimedOut,
    Unstartable,
    advance,
)
from uws_server.domain.job import Job, Parameter, Workload
from uws_server.domain.phase import Phase, allows

RUN = RunRequested("local", 1000, 0, NOW)


def after(*happened: Event) -> Job:
    """A new job after these events; `claimed` ones are marked as `Workload.CLAIMED` by the store."""
    job = jobs.job()
    for event in happened:
        job = advance(job, event, NOW)
        if event == RUN:
            job = replace(job, workload=Workload.CLAIMED)
    return job


@given(st.lists(jobs.anything, max_size=30), st.sets(st.integers(0, 29)))
def test_whatever_happens_only_legal_edges_are_taken(happened: list[Event], claims: set[int]) -> None:
    job = jobs.job()
    for number, event in enumerate(happened):
        before = job
        if number in claims and job.workload is Workload.WAITING:
            job = replace(job, workload=Workload.CLAIMED, version=job.version + 1)
        try:
            changed = advance(job, event, NOW)
        except Forbidden:
            changed = job
        if changed is job:
            continue
        assert changed.version == job.version + 1
        assert changed.phase is job.phase or allows(job.phase, changed.phase)
        assert changed.attempt >= job.attempt
        assert not (job.deleted and not changed.deleted)
        assert (changed.ended is not None) == changed.phase.final
        if changed.phase is Phase.QUEUED:
            assert not changed.results  # UWS: no results may exist
        if before.phase.final and not before.workload.holds_slot:
            assert not changed.workload.holds_slot  # nothing runs for a job that has ended
        job = changed


@given(st.lists(jobs.findings, max_size=12))
def test_what_worker_and_watcher_find_may_be_told_twice(happened: list[Event]) -> None:
    job = advance(jobs.job(), RUN, NOW)
    for event in happened:
        job = advance(job, event, NOW)
        again = advance(job, event, NOW)
        assert again.phase is job.phase
        assert again.attempt == job.attempt
        assert again.results == job.results


@pytest.mark.covers("UWS-21", "UWS-26", "UWS-28")
def test_an_abort_is_final_at_once_and_what_runs_is_stopped() -> None:
    executing = after(RUN, Launched(1), Started(1, NOW))
    aborted = advance(executing, AbortRequested(), NOW + 5)
    assert (aborted.phase, aborted.ended) == (Phase.ABORTED, NOW + 5)
    assert aborted.workload is Workload.STOPPING
    assert aborted.finalising
    assert advance(aborted, AbortRequested(), NOW + 9) is aborted
    gone = advance(aborted, Gone(1, RESULTS, (1, 2)), NOW + 9)
    assert (gone.phase, gone.results, gone.finalising) == (Phase.ABORTED, RESULTS, False)


@pytest.mark.covers("UWS-29")
def test_a_completion_that_comes_after_the_abort_changes_nothing() -> None:
    aborted = advance(after(RUN, Launched(1), Started(1, NOW)), AbortRequested(), NOW)
    assert advance(aborted, Succeeded(1, NOW, RESULTS, (0, 0)), NOW) is aborted


@pytest.mark.covers("UWS-15")
def test_running_too_long_has_the_effect_of_an_abort() -> None:
    job = advance(after(RUN, Launched(1), Started(1, NOW)), TimedOut(1, NOW + 60_000), NOW)
    assert job.phase is Phase.ABORTED
    assert "60 s" in job.reason


@pytest.mark.covers("3:queue-claim")
def test_a_lapsed_claim_is_taken_again_with_the_same_attempt() -> None:
    job = advance(after(RUN), ClaimLapsed(1), NOW)
    assert (job.workload, job.attempt, job.phase) == (Workload.WAITING, 1, Phase.QUEUED)


def test_a_lost_attempt_leaves_the_job_executing_until_attempts_are_spent() -> None:
    job = after(RUN, Launched(1), Started(1, NOW), AttemptLost(1, NOW, ERROR, 2))
    assert (job.phase, job.attempt, job.workload) == (Phase.EXECUTING, 2, Workload.WAITING)
    assert "attempt 1 was lost" in job.reason
    assert job.started == NOW
    second = advance(
        advance(replace(job, workload=Workload.CLAIMED), Launched(2), NOW), Started(2, NOW + 7), NOW
    )
    assert (second.started, second.attempt_started) == (NOW, NOW + 7)
    over = advance(second, AttemptLost(2, NOW + 9, ERROR, 2), NOW)
    assert (over.phase, over.error, over.workload) == (Phase.ERROR, ERROR, Workload.NONE)


def test_news_of_an_earlier_attempt_changes_nothing() -> None:
    job = after(RUN, Launched(1), Started(1, NOW), AttemptLost(1, NOW, ERROR, 2))
    for stale in (Succeeded(1, NOW, (), None), Failed(1, NOW, ERROR, (), None), Gone(1, (), None)):
        assert advance(job, stale, NOW) is job


@pytest.mark.covers("4:any-image")
def test_the_image_of_the_current_attempt_is_noted_also_when_it_has_ended() -> None:
    ended = after(RUN, Launched(1), Started(1, NOW), Succeeded(1, NOW, (), None))
    noted = advance(ended, Pulled(1, "stars@sha256:1"), NOW)
    assert (noted.image, noted.phase) == ("stars@sha256:1", Phase.COMPLETED)
    assert advance(noted, Pulled(1, "stars@sha256:1"), NOW) is noted
    second = after(RUN, Launched(1), Pulled(1, "stars@sha256:1"), AttemptLost(1, NOW, ERROR, 2))
    assert second.image == ""
    assert advance(second, Pulled(1, "stars@sha256:1"), NOW) is second


@pytest.mark.covers("UWS-61")
def test_parameters_are_added_and_replaced_while_pending_only() -> None:
    job = jobs.job(parameters=(Parameter("a", "1"), Parameter("a", "2"), Parameter("b", "3")))
    put = advance(job, ParametersPut((Parameter("a", "9"), Parameter("c", "4"))), NOW)
    assert [(p.name, p.value) for p in put.parameters] == [("b", "3"), ("a", "9"), ("c", "4")]
    with pytest.raises(Forbidden, match="PENDING"):
        advance(after(RUN), ParametersPut(()), NOW)


def test_the_duration_is_settled_once_a_worker_has_the_job() -> None:
    waiting = advance(jobs.job(), RUN, NOW)
    assert advance(waiting, DurationChanged(7), NOW).duration == 7
    with pytest.raises(Forbidden, match="until the job starts"):
        advance(after(RUN), DurationChanged(7), NOW)


def test_a_deleted_job_waits_for_its_workload_and_hears_nothing_else() -> None:
    job = advance(after(RUN, Launched(1), Started(1, NOW)), DeleteRequested(), NOW + 3)
    assert (job.deleted, job.workload, job.destruction) == (True, Workload.STOPPING, NOW + 3)
    assert advance(job, Succeeded(1, NOW, RESULTS, None), NOW) is job
    assert advance(job, Gone(1, (), None), NOW).workload is Workload.NONE


@pytest.mark.covers("UWS-16")
def test_only_an_ended_job_without_a_workload_is_archived() -> None:
    due = DestructionDue(jobs.job().destruction or 0)
    running = after(RUN, Launched(1), Started(1, NOW))
    aborted = advance(running, due, NOW)
    assert (aborted.phase, aborted.workload) == (Phase.ABORTED, Workload.STOPPING)
    assert advance(aborted, due, NOW) is aborted
    archived = advance(advance(aborted, Gone(1, RESULTS, (1, 1)), NOW), due, NOW)
    assert (archived.phase, archived.results, archived.reason) == (Phase.ARCHIVED, (), "was ABORTED")


@pytest.mark.covers("UWS-16")
def test_a_destruction_time_that_was_changed_meanwhile_is_not_carried_out() -> None:
    job = jobs.job()
    assert advance(job, DestructionDue((job.destruction or 0) - 1), NOW) is job


def test_an_abort_after_a_lapsed_claim_looks_whether_anything_runs() -> None:
    waiting = advance(after(RUN), ClaimLapsed(1), NOW)
    assert advance(waiting, AbortRequested(), NOW).workload is Workload.STOPPING
    assert advance(advance(jobs.job(), RUN, NOW), AbortRequested(), NOW).workload is Workload.NONE


def test_what_cannot_be_started_fails_and_is_stopped_all_the_same() -> None:
    job = advance(after(RUN), Unstartable(1, ERROR), NOW + 3)
    assert (job.phase, job.error, job.ended) == (Phase.ERROR, ERROR, NOW + 3)
    assert job.workload is Workload.STOPPING


def test_a_job_that_was_deleted_meanwhile_is_not_run() -> None:
    deleted = advance(jobs.job(), DeleteRequested(), NOW)
    with pytest.raises(Forbidden, match="deleted"):
        advance(deleted, RUN, NOW)
