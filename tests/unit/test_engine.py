"""Worker, watcher and reconciler together, step by step, against a site that does what the test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from runners.base import Cause, NotYet, Outcome, State, Unreachable
from tests.engine import NOBODY, Engine
from uws_server.domain.errors import BadRequest, Conflict, NotFound
from uws_server.domain.events import AbortRequested, advance
from uws_server.domain.job import Job, Parameter, Workload
from uws_server.domain.phase import Phase
from uws_server.domain.runspec import RunSpec
from uws_server.service.reconcile import LINKS_LIVE
from uws_server.service.uploads import Content
from uws_server.storage.base import NotStored, StorageUnavailable
from uws_server.store.base import Capacity, Due, FencedOff, Lease, StoreUnavailable
from uws_server.store.memory import MemoryStore

FAILED = Outcome(Cause.FAILED, "Cell 4 of the notebook raised KeyError: 'flux'", "Traceback …", 1)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def started(engine: Engine) -> str:
    """The id of a job whose code runs."""
    job = engine.submit()
    engine.work()
    engine.runner.run(job.id, 1)
    engine.look()
    assert engine.job(job.id).phase is Phase.EXECUTING
    return job.id


def test_a_job_goes_from_submission_to_its_results(engine: Engine) -> None:
    job = engine.submit()
    assert (job.phase, job.workload) == (Phase.QUEUED, Workload.WAITING)
    engine.work()
    assert engine.job(job.id).workload is Workload.ACTIVE
    engine.look()
    assert engine.job(job.id).reason == "staging in"
    engine.runner.run(job.id, 1)
    engine.look()
    running = engine.job(job.id)
    assert (running.phase, running.started, running.reason) == (Phase.EXECUTING, engine.now, "")
    engine.hand_in(running, {"table": b"period 0.93699\n"})
    engine.now += 5000
    engine.runner.end(job.id, 1)
    engine.look()
    done = engine.job(job.id)
    assert (done.phase, done.ended, done.workload) == (Phase.COMPLETED, engine.now, Workload.NONE)
    assert [(result.id, result.size) for result in done.results] == [("table", 15)]
    assert not engine.site.attempts  # forgotten once the end was recorded


def test_completed_means_that_the_manifest_is_there(engine: Engine) -> None:
    job_id = started(engine)
    engine.runner.end(job_id, 1)
    engine.look()
    job = engine.job(job_id)
    assert (job.phase, job.attempt, job.workload) == (Phase.EXECUTING, 2, Workload.WAITING)
    engine.work()
    engine.runner.run(job_id, 2)
    engine.look()
    engine.runner.end(job_id, 2)
    engine.look()
    job = engine.job(job_id)
    assert (job.phase, job.error and job.error.transient) == (Phase.ERROR, True)


@pytest.mark.covers("UWS-23", "UWS-70")
def test_a_failure_of_the_users_code_is_final_and_keeps_results(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id), {"notebook.ipynb": b"{}"})
    engine.runner.end(job_id, 1, FAILED)
    engine.look()
    job = engine.job(job_id)
    assert job.error is not None
    assert (job.phase, job.error.message, job.error.transient) == (Phase.ERROR, FAILED.message, False)
    assert [result.id for result in job.results] == ["notebook.ipynb"]
    assert engine.site.runs == [(job_id, 1)]


def test_a_lost_attempt_is_followed_by_another_and_then_by_an_error(engine: Engine) -> None:
    job_id = started(engine)
    for attempt in (1, 2):
        engine.runner.lose(job_id, attempt)
        engine.look()
        if attempt == 1:
            assert engine.job(job_id).phase is Phase.EXECUTING
            engine.work()
            engine.runner.run(job_id, 2)
            engine.look()
    job = engine.job(job_id)
    assert job.error is not None
    assert (job.phase, job.error.transient, job.attempt) == (Phase.ERROR, True, 2)
    assert engine.site.runs == [(job_id, 1), (job_id, 2)]


@pytest.mark.covers("UWS-28", "3:queue-lost-wakeup")
def test_an_abort_is_shown_at_once_and_the_workload_ends_after_it(engine: Engine) -> None:
    job_id = started(engine)
    assert engine.jobs.abort(NOBODY, "script", job_id).phase is Phase.ABORTED
    assert engine.job(job_id).finalising
    engine.work()
    engine.hand_in(engine.job(job_id), {"half": b"x"})
    engine.look()
    job = engine.job(job_id)
    assert (job.phase, job.workload) == (Phase.ABORTED, Workload.NONE)
    assert [result.id for result in job.results] == ["half"]


def test_a_deaf_workload_holds_its_slot_until_it_is_gone(engine: Engine) -> None:
    job_id = started(engine)
    engine.runner.deaf = True
    engine.jobs.abort(NOBODY, "script", job_id)
    engine.work()
    engine.look()
    assert engine.job(job_id).workload is Workload.STOPPING
    assert engine.store.due(Due.STOP, engine.now, "local") == [job_id]
    engine.runner.deaf = False
    engine.now += 10_000
    engine.reconcile()  # says again what was not heard
    engine.work()
    engine.look()
    assert engine.job(job_id).workload is Workload.NONE


@pytest.mark.covers("UWS-15", "UWS-16")
def test_an_overrun_ends_in_abort(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id))
    engine.runner.end(job_id, 1, Outcome(Cause.TIMED_OUT, "too long"))
    engine.look()
    job = engine.job(job_id)
    assert (job.phase, job.workload) == (Phase.ABORTED, Workload.NONE)
    assert "execution duration" in job.reason


@pytest.mark.covers("UWS-15")
def test_an_overrun_that_the_site_does_not_end_is_ended_by_the_watcher(engine: Engine) -> None:
    job = engine.submit(duration=60)
    engine.work()
    engine.runner.run(job.id, 1)
    engine.look()
    engine.now += 60_000
    engine.look()
    assert engine.job(job.id).phase is Phase.EXECUTING  # the site's own limit goes first
    engine.now += 15_000
    engine.look()
    engine.work()
    engine.look()
    assert (engine.job(job.id).phase, engine.job(job.id).workload) == (Phase.ABORTED, Workload.NONE)


@pytest.mark.parametrize("down", [False, True])
def test_results_that_come_after_the_time_are_no_overrun(engine: Engine, down: bool) -> None:
    """The code ends in time; the upload takes longer, or the server is away and hears of it late."""
    job = engine.submit(duration=60)
    engine.work()
    engine.runner.run(job.id, 1)
    engine.look()
    engine.now += 50_000
    engine.runner.finish(job.id, 1)
    if not down:
        engine.look()
    engine.now += 3600_000
    engine.reconcile()
    if not down:
        engine.look()
    engine.hand_in(engine.job(job.id), {"table": b"x"})
    engine.runner.end(job.id, 1)
    engine.look()
    done = engine.job(job.id)
    assert (done.phase, done.ended) == (Phase.COMPLETED, engine.now - 3600_000)


@pytest.mark.covers("3:reconciler", "3:queue-lost-wakeup")
def test_a_lost_wake_up_is_repeated(engine: Engine) -> None:
    job = engine.submit()
    engine.queue.__init__()  # type: ignore[misc]  # RQ has lost everything
    engine.work()
    assert engine.job(job.id).workload is Workload.WAITING
    engine.reconcile()
    engine.work()
    assert engine.job(job.id).workload is Workload.ACTIVE


@pytest.mark.covers("3:reconciler", "3:queue-claim")
def test_a_claim_whose_worker_died_is_taken_again_as_the_same_attempt(engine: Engine) -> None:
    job = engine.submit()
    assert engine.store.claim("local", engine.worker._capacity, 60) == job.id
    engine.reconcile()
    engine.work()
    assert engine.job(job.id).workload is Workload.CLAIMED
    engine.now += 60_000
    engine.reconcile()
    engine.reconcile()
    engine.work()
    assert (engine.job(job.id).workload, engine.job(job.id).attempt) == (Workload.ACTIVE, 1)
    assert list(engine.site.attempts) == [(job.id, 1)]


def test_an_attempt_that_runs_although_its_launch_was_not_recorded_is_adopted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.submit()
    monkeypatch.setattr(engine.changes, "apply", _raising(SystemExit))
    with pytest.raises(SystemExit):
        engine.work()  # dies after the start
    monkeypatch.undo()
    engine.runner.run(job.id, 1)
    engine.look()
    assert (engine.job(job.id).phase, engine.job(job.id).workload) == (Phase.EXECUTING, Workload.ACTIVE)
    engine.now += 120_000
    engine.reconcile()
    engine.work()
    assert engine.site.runs == [(job.id, 1)]


def _raising(error: type[BaseException]) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


def test_a_busy_site_leaves_the_job_queued_with_the_reason(engine: Engine) -> None:
    job = engine.submit()
    engine.runner.busy = "no user id is free"
    engine.work()
    waiting = engine.job(job.id)
    assert (waiting.phase, waiting.reason) == (Phase.QUEUED, "no user id is free")
    engine.work()  # it does not turn in circles: nothing was woken
    engine.runner.busy = ""
    engine.reconcile()
    engine.work()
    assert engine.job(job.id).workload is Workload.ACTIVE


def test_a_job_that_waits_for_what_only_it_needs_holds_up_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = engine.submit(), engine.submit()
    start = engine.runner.start

    def picky(spec: RunSpec, *rest: Any) -> None:
        if spec.job_id == first.id:
            raise NotYet("its registry does not answer")
        start(spec, *rest)

    monkeypatch.setattr(engine.runner, "start", picky)
    monkeypatch.setattr(engine.worker, "_capacity", Capacity(1, 10**6, 10**12))
    engine.now += 1000
    engine.work()
    assert engine.job(second.id).workload is Workload.ACTIVE
    waiting = engine.job(first.id)
    assert (waiting.phase, waiting.reason) == (Phase.QUEUED, "its registry does not answer")
    assert waiting.workload is Workload.WAITING  # and no room is kept for it
    monkeypatch.undo()
    engine.reconcile()
    engine.work()
    assert (engine.job(first.id).workload, engine.job(first.id).attempt) == (Workload.ACTIVE, 1)


def test_a_job_that_is_too_large_for_a_site_that_shrank_waits_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.submit()
    monkeypatch.setattr(engine.worker, "_capacity", Capacity(4, 10**6, job.memory_bytes - 1))
    engine.work()
    waiting = engine.job(job.id)
    assert (waiting.phase, waiting.workload) == (Phase.QUEUED, Workload.WAITING)
    assert waiting.reason == "the job asks for more processors or memory than its site has now"
    monkeypatch.undo()
    engine.reconcile()
    engine.work()
    assert engine.job(job.id).workload is Workload.ACTIVE


def test_a_manifest_that_is_said_again_costs_no_look_at_its_results(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.job(started(engine))
    engine.hand_in(job, {"table": b"x"})
    looked: list[str] = []
    monkeypatch.setattr(engine.objects, "head", looked.append)
    engine.hand_in(job, {"table": b"x"})
    assert looked == []
    with pytest.raises(Conflict):
        engine.hand_in(job, {"another": b"x"})


def test_one_job_that_cannot_be_cleared_away_keeps_back_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [started(engine) for _ in range(2)]
    for job_id in ids:
        engine.jobs.delete(NOBODY, "script", job_id)
        engine.work()
        engine.look()
    delete = engine.objects.delete

    def held(prefix: str) -> None:
        if ids[0] in prefix:
            raise StorageUnavailable("it is held by law")
        delete(prefix)

    monkeypatch.setattr(engine.objects, "delete", held)
    engine.objects.put(f"{engine.job(ids[1]).prefix}/1/late", b"x")
    with pytest.raises(StorageUnavailable):
        engine.reconcile()
    engine.reconcile()
    assert not [one.key for one in engine.objects.list("") if ids[0] not in one.key]


def test_a_site_that_breaks_leaves_the_claim_to_lapse(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.submit()
    monkeypatch.setattr(engine.runner, "start", _raising(OSError))
    engine.work()
    assert engine.job(job.id).workload is Workload.CLAIMED
    assert "OSError" in engine.job(job.id).reason
    monkeypatch.undo()
    engine.now += 60_000
    engine.reconcile()
    engine.reconcile()
    engine.work()
    assert (engine.job(job.id).workload, engine.job(job.id).attempt) == (Workload.ACTIVE, 1)


def test_a_site_that_was_asked_to_stop_a_job_is_asked_again_only_after_a_while(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = started(engine)
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(engine.runner, "stop", lambda *attempt: asked.append(attempt))
    engine.jobs.abort(NOBODY, "script", job_id)
    for _ in range(9):
        engine.reconcile()
        engine.work()
        engine.now += 1000
    assert asked == [(job_id, 1)]
    engine.now += 1000
    engine.reconcile()
    engine.work()
    assert asked == 2 * [(job_id, 1)]


@pytest.mark.covers("UWS-16", "UWS-69", "3:destruction")
def test_destruction_archives_once_nothing_runs(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id), {"table": b"x"})
    engine.jobs.set_destruction(NOBODY, "script", job_id, engine.now)
    engine.reconcile()
    assert engine.job(job_id).phase is Phase.ABORTED
    engine.reconcile()
    assert engine.job(job_id).phase is Phase.ABORTED  # it has not ended yet
    engine.work()
    engine.look()
    engine.reconcile()
    job = engine.job(job_id)
    assert (job.phase, job.results) == (Phase.ARCHIVED, ())
    engine.reconcile()
    assert list(engine.objects.list(job.prefix)) == []
    assert engine.store.due(Due.CLEARANCE, engine.now) == []


@pytest.mark.covers("UWS-68")
def test_deleting_stops_first_and_clears_again_when_links_have_expired(engine: Engine) -> None:
    job_id = started(engine)
    engine.jobs.delete(NOBODY, "script", job_id)
    with pytest.raises(NotFound):
        engine.jobs.get(NOBODY, "script", job_id)
    engine.reconcile()
    assert engine.job(job_id).workload is Workload.STOPPING
    engine.work()
    engine.look()
    engine.now += 5000
    engine.reconcile()
    assert list(engine.objects.list(f"jobs/{job_id}")) == []
    engine.objects.put(f"jobs/{job_id}/1/results/late", b"by a link that was still good")
    engine.now += LINKS_LIVE
    engine.reconcile()
    assert engine.store.get(job_id) is None
    with pytest.raises(NotStored):
        engine.objects.head(f"jobs/{job_id}/1/results/late")


def test_uploads_of_a_job_that_never_came_to_be_are_cleared_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.store, "create", _raising(SystemExit))
    monkeypatch.setattr(engine.objects, "delete", _raising(SystemExit))  # the process is dead
    with pytest.raises(SystemExit):
        engine.submit()
    monkeypatch.undo()
    assert list(engine.objects.list("jobs"))
    engine.reconcile()
    assert list(engine.objects.list("jobs"))
    engine.now += 3600_000
    engine.reconcile()
    assert not list(engine.objects.list("jobs"))


def test_a_watcher_that_was_paused_does_no_harm(engine: Engine) -> None:
    job_id = started(engine)
    stale = engine.lease("watcher:local", "watcher a")
    engine.now += 60_000
    assert engine.store.lease("watcher:local", "watcher b", 10) is not None
    engine.hand_in(engine.job(job_id))
    engine.runner.end(job_id, 1, FAILED)
    with pytest.raises(FencedOff):
        engine.watcher.look(stale)
    assert engine.job(job_id).phase is Phase.EXECUTING
    assert engine.site.attempts


def test_what_the_site_runs_of_unknown_jobs_is_left_alone(engine: Engine) -> None:
    job_id = started(engine)
    engine.store.cleared(job_id, engine.job(job_id), forget=True)
    engine.runner.end(job_id, 1)
    engine.look()
    assert engine.site.attempts


def pass_time(engine: Engine, seconds: int) -> None:
    """Time passes, and the watcher looks before its lease lapses."""
    for _ in range(seconds // 5):
        engine.now += 5000
        engine.look()


@pytest.mark.covers("3:lost-attempt")
def test_an_attempt_that_its_site_forgot_is_lost_after_a_while(engine: Engine) -> None:
    job_id = started(engine)
    reappear = engine.runner.vanish(job_id, 1)
    engine.look()
    pass_time(engine, 300)
    assert (engine.job(job_id).attempt, engine.job(job_id).workload) == (1, Workload.ACTIVE)
    pass_time(engine, 60)
    job = engine.job(job_id)
    assert (job.phase, job.attempt, job.workload) == (Phase.EXECUTING, 2, Workload.WAITING)
    assert "site local has not known of it for 300 s" in job.reason
    engine.work()
    engine.runner.run(job_id, 2)
    reappear()
    engine.look()
    assert "may have run twice" in engine.job(job_id).reason
    engine.look()
    assert list(engine.site.attempts) == [(job_id, 2)]  # the first was stopped, and then forgotten
    engine.hand_in(engine.job(job_id), {"table": b"x"})
    engine.runner.end(job_id, 2)
    engine.look()
    done = engine.job(job_id)
    assert (done.phase, len(done.results)) == (Phase.COMPLETED, 1)
    assert "may have run twice" in done.reason
    pass_time(engine, 60)
    assert engine.store.given("local") == {}


@pytest.mark.covers("3:lost-attempt")
def test_losing_sight_of_an_attempt_counts_as_an_attempt(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id), {"half": b"x"})
    engine.runner.lose(job_id, 1)
    engine.look()
    engine.work()
    engine.hand_in(engine.job(job_id), {"half": b"x"})
    reappear = engine.runner.vanish(job_id, 2)
    pass_time(engine, 420)
    job = engine.job(job_id)
    assert job.error is not None
    assert (job.phase, job.error.transient, job.workload) == (Phase.ERROR, True, Workload.NONE)
    assert [result.id for result in job.results] == ["half"]
    reappear()
    engine.look()
    engine.look()
    assert not engine.site.attempts
    assert engine.site.runs == [(job_id, 1)]


@pytest.mark.covers("3:lost-attempt")
def test_what_is_only_heard_of_as_a_name_is_missing(engine: Engine) -> None:
    """A directory that a worker, paused long ago, makes and then does not start anything in."""
    job_id = started(engine)
    found = engine.site.attempts[job_id, 1]
    found.seen = replace(found.seen, state=State.UNSTARTED)
    pass_time(engine, 420)
    assert engine.job(job_id).attempt == 2


@pytest.mark.covers("3:lost-attempt")
def test_a_site_that_does_not_answer_loses_nothing(engine: Engine) -> None:
    job_id = started(engine)
    reappear = engine.runner.vanish(job_id, 1)
    pass_time(engine, 240)
    engine.runner.unreachable = "connection refused"
    for _ in range(100):
        with pytest.raises(Unreachable):
            pass_time(engine, 5)
    engine.runner.unreachable = ""
    pass_time(engine, 300)  # counted from the first answer
    reappear()
    pass_time(engine, 420)
    assert engine.job(job_id).attempt == 1


@pytest.mark.covers("3:lost-attempt")
def test_a_watcher_that_was_away_has_not_seen_that_anything_was_missing(engine: Engine) -> None:
    job_id = started(engine)
    engine.runner.vanish(job_id, 1)
    engine.look()
    engine.now += 3600_000  # its lease has lapsed
    engine.look()
    assert engine.job(job_id).attempt == 1
    pass_time(engine, 240)
    stale = engine.lease("watcher:local", "watcher a")
    engine.now += 60_000
    other = engine.another_watcher("watcher b")
    other.look(engine.lease("watcher:local", "watcher b"))
    assert engine.job(job_id).attempt == 1
    engine.now += 60_000
    with pytest.raises(FencedOff):
        engine.watcher.look(stale)  # five minutes by its own clock
    assert engine.job(job_id).attempt == 1


@pytest.mark.covers("3:lost-attempt")
def test_what_a_worker_is_starting_is_not_missing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = engine.submit()
    monkeypatch.setattr(engine.runner, "start", _raising(SystemExit))
    with pytest.raises(SystemExit):
        engine.work()
    pass_time(engine, 600)
    assert (engine.job(job.id).attempt, engine.job(job.id).workload) == (1, Workload.CLAIMED)


@pytest.mark.covers("3:lost-attempt")
def test_what_is_left_of_a_job_deleted_while_nobody_watched_is_forgotten(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = started(engine)
    engine.jobs.delete(NOBODY, "script", job_id)
    engine.work()
    monkeypatch.setattr(engine.runner, "forget", _raising(SystemExit))
    with pytest.raises(SystemExit):
        engine.look()
    monkeypatch.undo()
    for _ in range(3):
        engine.now += LINKS_LIVE
        engine.reconcile()
    assert engine.store.get(job_id) is None
    assert engine.site.attempts
    engine.watcher = engine.another_watcher("watcher a")
    engine.look()
    assert not engine.site.attempts
    pass_time(engine, 60)
    assert engine.store.given("local") == {}


def test_a_store_that_fails_in_between_costs_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id))
    engine.runner.end(job_id, 1)
    monkeypatch.setattr(engine.store, "change", _raising(StoreUnavailable))
    with pytest.raises(StoreUnavailable):
        engine.look()
    monkeypatch.undo()
    engine.look()
    assert engine.job(job_id).phase is Phase.COMPLETED


def test_a_change_whose_reply_was_lost_is_not_refused(engine: Engine) -> None:
    """The first call is carried out and repeated by the client library, as after a lost connection."""
    job = engine.submit(run=False)
    assert isinstance(engine.store, MemoryStore)
    change = engine.store.change
    engine.store.change = lambda *words: change(*words) and change(*words)  # type: ignore[method-assign]
    assert engine.jobs.run(NOBODY, "script", job.id).phase is Phase.QUEUED


def test_of_two_changes_at_once_the_second_is_decided_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.submit(run=False)
    assert isinstance(engine.store, MemoryStore)
    change = engine.store.change

    def meanwhile_aborted(before: Job, after: Job, lease: Lease | None = None) -> bool:
        monkeypatch.undo()
        stored = engine.job(job.id)
        assert change(stored, advance(stored, AbortRequested("by another"), engine.now))
        return change(before, after, lease)

    monkeypatch.setattr(engine.store, "change", meanwhile_aborted)
    assert engine.jobs.abort(NOBODY, "script", job.id).reason == "by another"


def test_a_job_whose_service_has_gone_fails_with_that_sentence(engine: Engine) -> None:
    job = engine.submit()
    assert isinstance(engine.store, MemoryStore)
    engine.store._jobs[job.id] = replace(job, service="withdrawn")
    engine.work()
    failed = engine.job(job.id)
    assert failed.error is not None
    assert (failed.phase, failed.workload) == (Phase.ERROR, Workload.STOPPING)
    assert "withdrawn" in failed.error.message
    engine.look()
    assert engine.job(job.id).workload is Workload.NONE


def test_a_second_watcher_takes_over(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id))
    engine.runner.end(job_id, 1)
    other = engine.another_watcher("watcher b")
    assert engine.store.lease("watcher:local", "watcher b", 10) is None
    engine.now += 10_001
    lease = engine.store.lease("watcher:local", "watcher b", 10)
    assert lease is not None
    other.look(lease)
    assert engine.job(job_id).phase is Phase.COMPLETED


def test_a_reply_that_is_lost_at_creation_costs_no_uploads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = engine.store.create

    def stored_but_not_heard(*words: Any) -> Job:
        create(*words)
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(engine.store, "create", stored_but_not_heard)
    with pytest.raises(StoreUnavailable):
        engine.submit(idempotency_key="k")
    monkeypatch.undo()
    again = engine.submit(idempotency_key="k")
    engine.now += 2 * 3600_000
    engine.reconcile()
    assert again.id.endswith("1")
    assert list(engine.objects.list(again.prefix))


@pytest.mark.covers("3:bad-plain-sentence")
def test_a_refused_change_leaves_the_upload_as_it_was(engine: Engine) -> None:
    job = engine.submit(run=False)
    before = engine.job(job.id)
    junk = (Parameter("nonsense", "1"), Parameter("script", "other.py"))
    with pytest.raises(BadRequest, match="nonsense"):
        engine.jobs.set_parameters(job, junk, {"script": Content([b"other"], "text/x-python")})
    assert engine.job(job.id) == before
    assert b"".join(engine.jobs.parameter_content(job, job.parameters[0])) == b"print('hello')\n"


def test_a_destruction_time_put_off_at_the_last_moment_is_kept(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id), {"table": b"x"})
    engine.runner.end(job_id, 1)
    engine.look()
    engine.jobs.set_destruction(NOBODY, "script", job_id, engine.now)
    get_many = engine.store.get_many

    def put_off(job_ids: Sequence[str]) -> list[Job | None]:
        found = get_many(job_ids)
        if job_id in job_ids:
            engine.jobs.set_destruction(NOBODY, "script", job_id, engine.now + 10**6)
        return found

    monkeypatch.setattr(engine.store, "get_many", put_off)
    engine.reconcile()
    assert engine.job(job_id).phase is Phase.COMPLETED
    assert list(engine.objects.list(f"jobs/{job_id}"))


def test_a_reconciler_that_was_paused_clears_nothing_of_what_lives(engine: Engine) -> None:
    job_id = started(engine)
    engine.hand_in(engine.job(job_id), {"table": b"x"})
    engine.runner.end(job_id, 1)
    engine.look()
    engine.jobs.set_destruction(NOBODY, "script", job_id, engine.now)
    stale = engine.lease("reconciler", "reconciler")
    engine.now += 60_000
    assert engine.store.lease("reconciler", "another", 10) is not None
    with pytest.raises(FencedOff):
        engine.reconciler.round(stale)
    assert engine.job(job_id).phase is Phase.COMPLETED
    assert list(engine.objects.list(f"jobs/{job_id}"))


def test_what_a_site_cannot_start_at_all_fails_after_some_tries(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = engine.submit()
    monkeypatch.setattr(engine.runner, "start", _raising(OSError))
    for _ in range(12):
        engine.work()
        engine.now += 60_000
        engine.reconcile()
    failed = engine.job(job.id)
    assert failed.error is not None
    assert (failed.phase, failed.error.transient) == (Phase.ERROR, True)
    assert "tries" in failed.error.message


def test_resources_are_counted_of_the_parameters_that_are_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters change between the check and the commitment of PHASE=RUN."""
    job = engine.submit(run=False)
    change = engine.store.change

    def meanwhile_larger(before: Job, after: Job, lease: Lease | None = None) -> bool:
        monkeypatch.undo()
        engine.jobs.set_parameters(job, (Parameter("CPU", "4"),))
        return change(before, after, lease)

    monkeypatch.setattr(engine.store, "change", meanwhile_larger)
    assert engine.jobs.run(NOBODY, "script", job.id).cpu_milli == 4000
