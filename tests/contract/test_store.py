"""What every job store does: the double in memory, Redis 7.0 and Valkey 9."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import jobs
from tests.jobs import ERROR, NOW, RESULTS
from tests.redis_servers import PROGRAMS
from tests.waiting import PATIENCE, until
from uws_server.domain.errors import Forbidden
from uws_server.domain.events import (
    AbortRequested,
    AttemptLost,
    ClaimLapsed,
    Deferred,
    DeleteRequested,
    DestructionDue,
    Event,
    Gone,
    Launched,
    Postponed,
    RunRequested,
    Started,
    Succeeded,
    advance,
)
from uws_server.domain.job import ErrorSummary, Job, Parameter, Workload
from uws_server.domain.phase import LISTED, Phase
from uws_server.store import records
from uws_server.store.base import (
    SCHEMA,
    Capacity,
    ClearanceDue,
    Due,
    FencedOff,
    JobStore,
    KeyReused,
    Load,
    Planned,
    Quota,
    Selection,
    StoreUnavailable,
)
from uws_server.store.memory import MemoryStore
from uws_server.store.redis import RedisStore

pytestmark = pytest.mark.covers("3:contract-store", "3:redis-and-valkey")

RUN = RunRequested("local", 1000, 100, NOW)
ROOM = Capacity(jobs=100, cpu_milli=10**6, memory_bytes=10**12)


@pytest.fixture(params=["memory", *PROGRAMS])
def store(request: pytest.FixtureRequest, redis_servers: Callable[[str], str]) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    redis_store = RedisStore(redis_servers(request.param))
    yield redis_store
    redis_store.close()


def put(store: JobStore, **changes: object) -> Job:
    return store.create(jobs.job(**changes))


def apply(store: JobStore, job_id: str, *happened: Event) -> Job:
    for event in happened:
        before = store.get(job_id)
        assert before is not None
        after = advance(before, event, NOW)
        if after is not before:
            assert store.change(before, after)
    stored = store.get(job_id)
    assert stored is not None
    return stored


def ids(found: list[Job]) -> list[str]:
    return [job.id for job in found]


def everything(service: str = "lightcurve", owner: str = "", **changes: object) -> Selection:
    return replace(Selection(service, owner, LISTED, 1000), **changes)  # type: ignore[arg-type]


def test_a_job_is_read_back_as_it_was_stored(store: JobStore) -> None:
    job = jobs.job(
        parameters=(Parameter("a", "1"), Parameter("Ä", "\x00\n'")), run_id="night 12", owner="ann"
    )
    store.create(job)
    assert store.get(job.id) == job
    assert store.get("no such job") is None
    assert store.get_many([job.id, "none", job.id]) == [job, None, job]


@given(happened=st.lists(jobs.anything, max_size=8), given_parameters=jobs.parameters)
@settings(max_examples=300)
def test_a_record_says_all_of_a_job(happened: list[Event], given_parameters: tuple[Parameter, ...]) -> None:
    job = jobs.job(parameters=given_parameters, owner="ann", progress=(3, 7))
    for event in happened:
        try:
            job = advance(job, event, NOW)
        except Forbidden:
            continue
    hashed = {field: str(value) for field, value in records.fields(job).items()}
    assert records.job(job.id, hashed, records.parameters(job), records.outcome(job)) == job
    assert all(len(value.encode()) <= 64 for value in hashed.values())  # one compact listpack


def test_a_record_that_cannot_be_read_names_the_job() -> None:
    with pytest.raises(records.Unreadable, match="17"):
        records.job("17", {"v": "one"})


@pytest.mark.covers("3:idempotency-key")
def test_a_creation_is_not_repeated_under_the_same_key(store: JobStore) -> None:
    first = store.create(jobs.job(id="1"), "key", "print")
    assert store.create(jobs.job(id="2"), "key", "print") == first
    assert store.get("2") is None
    assert store.create(jobs.job(id="3", owner="ann"), "key", "print").id == "3"
    with pytest.raises(KeyReused):
        store.create(jobs.job(id="4"), "key", "another print")
    assert store.create(jobs.job(id="1")).id == "1"  # a call repeated because its reply was lost


def test_a_change_is_made_once(store: JobStore) -> None:
    job = put(store)
    queued = advance(job, RUN, NOW)
    assert store.change(job, queued)
    assert not store.change(job, advance(job, AbortRequested(), NOW))
    assert store.get(job.id) == queued


@pytest.mark.covers("UWS-29")
def test_of_many_who_change_a_job_at_once_one_wins(store: JobStore) -> None:
    job = put(store)
    won: list[Job] = []
    ready = threading.Barrier(8)

    def race(number: int) -> None:
        after = advance(job, AbortRequested(f"by {number}"), NOW)
        ready.wait(PATIENCE)
        if store.change(job, after):
            won.append(after)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(won) == 1
    assert store.get(job.id) == won[0]


@pytest.mark.covers("UWS-35", "UWS-36", "UWS-37", "UWS-38", "UWS-42", "3:uws-filters")
def test_a_list_is_newest_first_and_its_filters_are_anded(store: JobStore) -> None:
    for number in range(6):
        put(store, id=str(number), created=NOW + number // 2)
    put(store, id="other service", service="script")
    put(store, id="another's", owner="ann")
    apply(store, "1", AbortRequested())
    apply(store, "4", AbortRequested())
    assert ids(store.select(everything())) == ["5", "4", "3", "2", "1", "0"]
    assert ids(store.select(everything(limit=2))) == ["5", "4"]
    assert ids(store.select(everything(after=NOW))) == ["5", "4", "3", "2"]
    aborted = frozenset({Phase.ABORTED})
    assert ids(store.select(everything(phases=aborted))) == ["4", "1"]
    assert ids(store.select(everything(phases=aborted, limit=1))) == ["4"]
    assert ids(store.select(everything(phases=aborted, after=NOW))) == ["4"]
    assert ids(store.select(everything(phases=aborted | {Phase.PENDING}, after=NOW, limit=3))) == [
        "5",
        "4",
        "3",
    ]
    assert ids(store.select(everything(owner="ann"))) == ["another's"]


def test_a_cursor_goes_through_a_list_without_gap_or_repeat(store: JobStore) -> None:
    wanted = {str(put(store, id=f"{number:02d}", created=NOW + number // 7).id) for number in range(30)}
    seen: list[str] = []
    before: tuple[int, str] | None = None
    while page := store.select(everything(limit=4, before=before)):
        seen += ids(page)
        before = page[-1].created, page[-1].id
    assert len(seen) == len(wanted)
    assert set(seen) == wanted
    assert seen == sorted(seen, reverse=True)


@pytest.mark.covers("3:queue-atomic", "3:queue-claim")
def test_a_claim_takes_the_longest_waiting_job_once(store: JobStore) -> None:
    for number in range(3):
        job = put(store, id=str(number))
        assert store.change(job, advance(job, replace(RUN, at=NOW + 10 - number), NOW))
    assert store.waiting("local") == 1
    assert [store.claim("local", ROOM, 60) for _ in range(4)] == ["2", "1", "0", None]
    claimed = store.get("2")
    assert claimed is not None
    assert (claimed.workload, claimed.attempt) == (Workload.CLAIMED, 1)
    assert store.claim("elsewhere", ROOM, 60) is None
    assert store.waiting("local") == 0


def test_owners_take_turns(store: JobStore) -> None:
    for number in range(3):
        put(store, id=f"a{number}", owner="ann")
        apply(store, f"a{number}", RUN)
    put(store, id="b", owner="b:ob/%")
    apply(store, "b", RUN)
    taken = []
    while claimed := store.claim("local", ROOM, 60):
        taken.append(claimed)
    assert taken == ["a0", "b", "a1", "a2"]


@pytest.mark.parametrize("owners", ["ab", "abc", "abcd"])
def test_whose_turn_the_site_had_no_room_for_has_the_next(store: JobStore, owners: str) -> None:
    """A site that takes one job at a time, such as one with a quota, serves everybody."""
    for owner in owners:
        for number in range(5):
            put(store, id=f"{owner}{number}", owner=owner)
            apply(store, f"{owner}{number}", RUN)
    taken = ""
    for _ in range(3 * len(owners)):
        launched, turned_away = store.claim("local", ROOM, 60), store.claim("local", ROOM, 60)
        assert launched is not None
        assert turned_away is not None
        apply(store, launched, Launched(1))
        apply(store, turned_away, Postponed(1, "the quota is used up"))
        taken += launched[0]
    assert Counter(taken) == dict.fromkeys(owners, 3)


def test_what_never_fits_keeps_nobody_back(store: JobStore) -> None:
    for number in range(2):
        put(store, id=str(number), memory_bytes=200 - number)
        apply(store, str(number), RUN)
    small = Capacity(2, 10**6, 199)
    assert store.claim("local", small, 60) == "0"
    job = store.get("0")
    assert job is not None
    assert store.change(job, advance(job, Deferred(1, "too large"), NOW + 1000))
    assert store.claim("local", small, 60) == "1"


def test_who_is_put_off_lets_the_others_of_its_owner_go_first(store: JobStore) -> None:
    for number in range(3):
        put(store, id=str(number))
        apply(store, str(number), RUN)
    assert store.claim("local", ROOM, 60) == "0"
    job = store.get("0")
    assert job is not None
    assert store.change(job, advance(job, Deferred(1, "its registry is away"), NOW + 1000))
    assert [store.claim("local", ROOM, 60) for _ in range(4)] == ["1", "2", "0", None]
    again = store.get("0")
    assert again is not None
    assert (again.attempt, again.reason) == (1, "its registry is away")


def test_leaving_the_line_and_coming_back_is_no_way_to_the_front(store: JobStore) -> None:
    for number in range(3):
        put(store, id=f"a{number}", owner="ann")
        apply(store, f"a{number}", RUN)
    taken = []
    for number in range(2):
        put(store, id=f"b{number}", owner="bob")
        apply(store, f"b{number}", RUN)
        taken += [store.claim("local", ROOM, 60), store.claim("local", ROOM, 60)]
    assert taken == ["a0", "b0", "a1", "b1"]


def test_a_claim_keeps_within_the_capacity_until_the_workload_is_gone(store: JobStore) -> None:
    for number in range(3):
        put(store, id=str(number))
        apply(store, str(number), RUN)
    assert store.claim("local", Capacity(2, 10**6, 10**9), 60) == "0"
    assert store.claim("local", Capacity(2, 1500, 10**9), 60) is None  # 1000 of 1500 are taken
    assert store.claim("local", Capacity(2, 10**6, 150), 60) is None
    assert store.claim("local", Capacity(2, 2000, 200), 60) == "1"
    assert store.claim("local", Capacity(2, 10**6, 10**9), 60) is None
    aborted = apply(store, "0", Launched(1), Started(1, NOW), AbortRequested())
    assert aborted.workload is Workload.STOPPING
    assert store.claim("local", Capacity(2, 10**6, 10**9), 60) is None  # it may run still
    apply(store, "1", Launched(1), Started(1, NOW), Succeeded(1, NOW, RESULTS, (0, 0)))
    assert store.claim("local", Capacity(2, 10**6, 10**9), 60) == "2"


def test_an_aborted_job_leaves_the_line(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN, AbortRequested())
    assert store.claim("local", ROOM, 60) is None


def test_a_lost_attempt_comes_back_to_the_line(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN)
    assert store.claim("local", ROOM, 60) == "1"
    apply(store, "1", Launched(1), Started(1, NOW), AttemptLost(1, NOW, ERROR, 2))
    assert store.claim("local", ROOM, 60) == "1"
    again = store.get("1")
    assert again is not None
    assert (again.attempt, again.phase) == (2, Phase.EXECUTING)


def test_what_is_due(store: JobStore) -> None:
    put(store, id="1", destruction=NOW + 50, duration=1)
    put(store, id="2", destruction=NOW + 20)
    put(store, id="3", destruction=None)
    assert store.due(Due.DESTRUCTION, NOW + 30) == ["2"]
    assert store.due(Due.DESTRUCTION, NOW + 90) == ["2", "1"]
    assert store.due(Due.DESTRUCTION, NOW + 90, limit=1) == ["2"]
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    far = time.time_ns() // 10**6
    assert store.due(Due.CLAIM, far) == []
    assert store.due(Due.CLAIM, far + 70_000) == ["1"]
    apply(store, "1", Launched(1), Started(1, NOW))
    assert store.due(Due.CLAIM, far + 70_000) == []
    assert store.due(Due.DEADLINE, NOW + 999) == []
    assert store.due(Due.DEADLINE, NOW + 1000) == ["1"]
    apply(store, "1", AbortRequested())
    assert store.due(Due.DEADLINE, NOW + 1000) == []
    assert store.due(Due.STOP, NOW, "local") == ["1"]
    assert store.due(Due.STOP, NOW, "elsewhere") == []


def test_what_a_site_can_run_is_what_its_worker_said_last(store: JobStore) -> None:
    assert store.capacity("local") is None
    store.report_capacity("local", Capacity(3, 1500, 2**40, gpu=1))
    store.report_capacity("elsewhere", ROOM)
    assert store.capacity("local") == Capacity(3, 1500, 2**40, gpu=1)
    store.report_capacity("local", ROOM)
    assert store.capacity("local") == ROOM


@pytest.mark.covers("3:lost-attempt")
def test_a_store_knows_what_a_site_was_given(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN)
    assert store.given("local") == {}
    store.claim("local", ROOM, 60)
    assert store.given("local") == {}  # what is in flight cannot be missing
    apply(store, "1", Launched(1))
    assert store.given("local") == {("1", 1): True}
    assert store.given("elsewhere") == {}
    apply(store, "1", Started(1, NOW))
    assert store.given("local") == {("1", 1): True}
    apply(store, "1", AttemptLost(1, NOW, ERROR, 2))
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(2))
    assert store.given("local") == {("1", 1): False, ("1", 2): True}
    store.forgotten("local", [("1", 1), ("nobody", 3)])
    store.forgotten("local", [])
    assert store.given("local") == {("1", 2): True}
    deleted = apply(store, "1", DeleteRequested(), Gone(2, (), None))
    assert store.cleared("1", deleted, forget=True)
    assert store.given("local") == {("1", 2): False}  # its directory may be there still
    store.forgotten("local", [("1", 2)])
    assert store.given("local") == {}


def test_what_was_never_at_a_site_is_not_looked_for_there(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN, AbortRequested())
    put(store, id="2")
    apply(store, "2", AbortRequested())
    assert store.given("local") == {}
    put(store, id="3")
    apply(store, "3", RUN)
    store.claim("local", ROOM, 60)
    apply(store, "3", ClaimLapsed(1), AbortRequested())
    assert store.given("local") == {("3", 1): False}  # whoever claimed it may have started it


@pytest.mark.covers("3:crash-delete")
def test_a_job_deleted_while_it_runs_leaves_no_entry_behind(store: JobStore) -> None:
    put(store, id="1", duration=1)
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(1), Started(1, NOW), DeleteRequested())
    assert store.due(Due.DEADLINE, NOW + 10**9) == []
    assert store.cleared("1", apply(store, "1", Gone(1, (), None)), forget=True)
    for what in Due:
        assert store.due(what, NOW + 10**12, "local") == []


@pytest.mark.covers("UWS-68", "UWS-69")
def test_a_deleted_job_is_out_of_every_list_until_it_is_removed(store: JobStore) -> None:
    put(store, id="1")
    deleted = apply(store, "1", DeleteRequested())
    assert deleted.deleted
    assert store.select(everything()) == []
    assert store.due(Due.DESTRUCTION, NOW + 10**9) == []
    assert store.due(Due.CLEARANCE, NOW) == ["1"]
    store.schedule_clearance("1", NOW + 5)
    assert store.due(Due.CLEARANCE, NOW) == []
    assert not store.cleared("1", jobs.job(), forget=True)  # it was seen before it was deleted
    assert store.cleared("1", deleted, forget=True)
    assert store.get("1") is None
    assert store.due(Due.CLEARANCE, NOW + 9) == []


def test_a_deleted_job_has_no_deadline_any_more(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(1), Started(1, NOW))
    assert store.due(Due.DEADLINE, NOW + 10**9) == ["1"]
    apply(store, "1", DeleteRequested())
    assert store.due(Due.DEADLINE, NOW + 10**9) == []


def test_an_archived_job_is_due_for_clearance_and_then_stays(store: JobStore) -> None:
    put(store, id="1")
    archived = apply(store, "1", AbortRequested(), DestructionDue(jobs.job().destruction or 0))
    assert archived.phase is Phase.ARCHIVED
    assert store.due(Due.DESTRUCTION, NOW + 10**9) == []
    assert store.due(Due.CLEARANCE, NOW) == ["1"]
    deleted = apply(store, "1", DeleteRequested())
    assert not store.cleared("1", archived)  # the note is the deletion's by now
    assert store.due(Due.CLEARANCE, NOW) == ["1"]
    assert store.cleared("1", deleted)
    assert store.get("1") == deleted


def test_what_is_to_be_stopped_first_is_not_due_for_destruction(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(1), Started(1, NOW), AbortRequested())
    assert store.due(Due.DESTRUCTION, NOW + 10**9) == []
    apply(store, "1", Gone(1, (), None))
    assert store.due(Due.DESTRUCTION, NOW + 10**9) == ["1"]


def test_content_without_a_job_is_due_for_clearance(store: JobStore) -> None:
    job = jobs.job(id="1", parameters=(jobs.parameter_with_content(),))
    soon = store.now() + 60_000
    with pytest.raises(ClearanceDue):
        store.create(job, "key", "print")
    store.schedule_clearance("1", store.now() - 1)
    with pytest.raises(ClearanceDue):
        store.create(job, "key", "print")  # it may be cleared away at this moment
    store.schedule_clearance("1", soon)
    assert store.due(Due.CLEARANCE, soon) == ["1"]
    assert store.create(job, "key", "print") == job
    assert store.due(Due.CLEARANCE, soon) == []
    store.schedule_clearance("2", soon)
    assert not store.cleared("2", job)
    assert store.cleared("2", None)
    assert store.due(Due.CLEARANCE, soon) == []
    assert not store.cleared("1", None)  # there is one


def test_the_store_has_the_time(store: JobStore) -> None:
    assert abs(store.now() - time.time_ns() // 10**6) < 60_000


def test_progress_is_noted_for_the_current_attempt_only(store: JobStore) -> None:
    put(store, id="1")
    apply(store, "1", RUN)
    store.report("1", 2, 1, 9)
    store.report("nobody", 1, 1, 9)
    assert (store.get("1") or jobs.job()).progress is None
    store.report("1", 1, 3, 9)
    job = store.get("1")
    assert job is not None
    assert job.progress == (3, 9)
    assert apply(store, "1", AbortRequested()).phase is Phase.ABORTED  # progress made no new version


@pytest.mark.covers("4:begins-once")
def test_an_attempt_begins_in_one_place_only(store: JobStore) -> None:
    put(store, id="1")
    assert not store.begin("1", 1, "pod-a")
    assert not store.begin("nobody", 1, "pod-a")
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    assert not store.begin("1", 2, "pod-a")
    assert store.begin("1", 1, "pod-a")
    assert store.begin("1", 1, "pod-a")
    assert not store.begin("1", 1, "pod-b")
    apply(store, "1", ClaimLapsed(1))
    assert not store.begin("1", 1, "pod-b")
    assert store.begin("1", 1, "pod-a")
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(1), AttemptLost(1, NOW, ErrorSummary("gone", transient=True), 3))
    assert not store.begin("1", 1, "pod-a")
    assert store.begin("1", 2, "pod-b")
    apply(store, "1", AbortRequested())
    assert not store.begin("1", 2, "pod-b")


QUOTA = Quota(bytes=100, files=3, log_bytes=50)


def result(name: str, size: int) -> Planned:
    return Planned(f"results/{name}", size)


def segment(offset: int, size: int) -> Planned:
    return Planned("logs/stdout", size, offset)


def counting(store: JobStore, job_id: str = "1") -> Callable[..., int | None]:
    put(store, id=job_id)
    apply(store, job_id, RUN)
    return lambda *planned, attempt=1: store.count(job_id, attempt, planned, QUOTA)


@pytest.mark.covers("3:agent-outputs")
def test_what_an_attempt_stores_is_counted_once_a_name(store: JobStore) -> None:
    count = counting(store)
    assert count(result("a", 60), result("b", 30)) is None
    assert count(result("a", 60), result("b", 30)) is None  # the reply was lost
    assert count(result("a", 5), result("b", 31)) is None  # the largest counts: what is stored may be that
    assert count(result("a", 69)) is None
    assert count(result("a", 70)) == 0
    assert count(result("c", 0), result("d", 0)) == 1
    assert count(result("d", 0)) is None  # nothing of a refused call was counted
    assert count(result("e", 0)) == 0
    assert count(result("x", 2**62), result("x", 2**62)) == 0


@pytest.mark.covers("3:agent-logs")
def test_a_log_is_counted_by_its_end(store: JobStore) -> None:
    count = counting(store)
    assert count(segment(0, 20), Planned("logs/stderr", 50, 0)) is None
    assert count(segment(0, 20)) is None
    assert count(segment(20, 10), segment(30, 5)) is None
    assert count(segment(30, 5)) is None
    for wrong in (segment(0, 20), segment(20, 10), segment(30, 6), segment(36, 1), segment(0, 35)):
        assert count(wrong) == 0
    assert count(segment(35, 16)) == 0
    assert count(segment(35, 15)) is None
    assert count(segment(50, 1)) == 0


def test_a_new_attempt_is_counted_afresh_and_an_old_one_not_at_all(store: JobStore) -> None:
    count = counting(store)
    assert count(result("a", 100)) is None
    apply(store, "1", Launched(1), Started(1, NOW), AttemptLost(1, NOW, ERROR, 2))
    assert count(result("b", 100)) == 0
    assert count(result("b", 100), attempt=2) is None
    assert count(result("c", 1), attempt=2) == 0
    apply(store, "1", Launched(2), Started(2, NOW), Succeeded(2, NOW, RESULTS, None))
    assert count(result("b", 1), attempt=2) == 0
    assert store.count("nobody", 1, (result("a", 1),), QUOTA) == 0


def test_nothing_is_kept_of_the_count_of_a_job_that_has_ended(redis_store: RedisStore) -> None:
    count = counting(redis_store)
    assert count(result("a", 1)) is None
    assert redis_store.client.exists("uws:n:1")
    apply(redis_store, "1", Launched(1), Started(1, NOW), Succeeded(1, NOW, RESULTS, None))
    assert not redis_store.client.exists("uws:n:1")


def test_a_lease_is_one_holders_and_fences_off_the_others(store: JobStore) -> None:
    job = put(store, id="1")
    lease = store.lease("watcher", "a", 0.3)
    assert lease is not None
    assert store.lease("watcher", "b", 60) is None
    assert store.lease("watcher", "a", 0.3) == lease
    other = until(lambda: store.lease("watcher", "b", 60), "the end of the lease")
    assert other.fence > lease.fence
    with pytest.raises(FencedOff):
        store.change(job, advance(job, AbortRequested(), NOW), lease)
    assert store.get("1") == job
    assert store.change(job, advance(job, AbortRequested(), NOW), other)
    store.release(lease)  # no longer ours: nothing happens
    assert store.lease("watcher", "c", 60) is None
    store.release(other)
    assert store.lease("watcher", "c", 60) is not None


def test_every_change_of_phase_is_told_in_order(store: JobStore) -> None:
    start = store.last_event()
    put(store, id="1", owner="ann")
    apply(store, "1", RUN)
    store.claim("local", ROOM, 60)
    apply(store, "1", Launched(1), Started(1, NOW))
    store.report("1", 1, 1, 2)
    apply(store, "1", AbortRequested(), DeleteRequested())
    told = list(store.events(start, 1))
    assert [(e.job_id, e.owner, e.service) for e in told] == [("1", "ann", "lightcurve")] * len(told)
    phases = [e.phase for e in told if e.kind == "phase"]
    assert phases == ["PENDING", "QUEUED", "EXECUTING", "ABORTED", ""]
    assert [e.kind for e in told if e.phase == "EXECUTING"] == ["phase", "progress"]
    assert [e.id for e in store.events(told[1].id, 1)] == [e.id for e in told[2:]]
    assert store.last_event() == told[-1].id
    assert list(store.events(told[-1].id, 0.05)) == []


def test_a_reader_is_woken_by_the_next_event(store: JobStore) -> None:
    start = store.last_event()
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.extend(e.job_id for e in store.events(start, 20)))
    reader.start()
    put(store, id="1")
    reader.join(PATIENCE)
    assert heard == ["1"]


# -- Redis alone -------------------------------------------------------------------------------


@pytest.fixture
def redis_store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url)
    yield store
    store.close()


def test_a_store_in_memory_says_that_it_is_not_durable() -> None:
    assert MemoryStore().check()


@pytest.mark.covers("3:config-durable")
def test_what_is_not_durable_is_said(redis_store: RedisStore) -> None:
    assert redis_store.check() == []
    client = redis_store.client
    try:
        client.config_set("appendfsync", "everysec")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert [problem.split()[0] for problem in redis_store.check()] == ["appendfsync", "maxmemory-policy"]
        client.config_set("appendonly", "no")
        assert "append-only file is off" in redis_store.check()[0]
    finally:
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        client.config_set("maxmemory-policy", "noeviction")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    store = RedisStore("unix:///nowhere/socket")
    for call in (lambda: store.get("1"), lambda: store.create(jobs.job()), store.check):
        with pytest.raises(StoreUnavailable):
            call()


def test_scripts_are_found_again_after_the_server_forgot_them(redis_store: RedisStore) -> None:
    put(redis_store, id="1")
    redis_store.client.script_flush()
    assert apply(redis_store, "1", RUN).phase is Phase.QUEUED


def test_a_claim_looks_at_heads_not_at_lines(redis_store: RedisStore) -> None:
    """Commands that one claim costs, with a long line and many owners that do not fit."""
    for number in range(400):
        put(redis_store, id=f"big{number}", owner=f"owner {number % 40}", cpu_milli=1)
        apply(redis_store, f"big{number}", RunRequested("local", 600, 0, NOW))
    assert redis_store.claim("local", Capacity(10, 1000, 10**9), 60)  # beside which no other fits

    def commands() -> int:
        before = redis_store.client.info("commandstats")
        assert redis_store.claim("local", Capacity(10, 1000, 10**9), 60) is None
        after = redis_store.client.info("commandstats")
        names = ("cmdstat_zrange", "cmdstat_hmget", "cmdstat_hget")
        return sum(after.get(n, {"calls": 0})["calls"] - before.get(n, {"calls": 0})["calls"] for n in names)

    assert commands() < 60


def test_the_record_of_a_job_stays_small(redis_store: RedisStore) -> None:
    job = jobs.job(
        parameters=(Parameter("light_curve", "lc_1.3444.614.R.mjd"), Parameter("min_period", "0.1"))
    )
    for number in itertools.count():
        if number == 200:
            break
        redis_store.create(replace(job, id=f"{number:026d}"))
        apply(redis_store, f"{number:026d}", RUN)
        assert redis_store.client.object("encoding", f"uws:j:{number:026d}") == "listpack"


def test_an_unreadable_record_keeps_nobody_else_back(redis_store: RedisStore) -> None:
    put(redis_store, id="1")
    put(redis_store, id="2")
    redis_store.client.hset("uws:j:1", "v", "one")
    assert redis_store.get_many(["1", "2"]) == [None, jobs.job(id="2")]
    with pytest.raises(records.Unreadable):
        redis_store.get("1")
    assert ids(redis_store.select(everything())) == ["2"]


def test_an_id_without_a_record_does_not_block_a_line(redis_store: RedisStore) -> None:
    for job_id in ("1", "2"):
        put(redis_store, id=job_id)
        apply(redis_store, job_id, RUN)
    redis_store.client.delete("uws:j:1")
    assert redis_store.claim("local", ROOM, 60) is None
    assert redis_store.claim("local", ROOM, 60) == "2"


@pytest.mark.covers("4:schema-version")
def test_the_version_of_an_empty_store_is_that_of_who_asks_first(store: JobStore) -> None:
    assert store.schema(SCHEMA + 1) == SCHEMA + 1
    assert store.schema() == SCHEMA + 1
    put(store)
    assert store.schema(SCHEMA + 2) == SCHEMA + 1


@pytest.mark.covers("4:schema-version")
def test_a_store_with_jobs_from_before_versions_were_noted_is_of_the_first(store: JobStore) -> None:
    put(store)
    assert store.schema(2) == 1


@pytest.mark.covers("4:schema-version")
def test_of_several_that_start_at_once_all_are_told_the_same_version(store: JobStore) -> None:
    together = threading.Barrier(16)
    told: list[int] = []

    def start(ours: int) -> None:
        together.wait(PATIENCE)
        told.append(store.schema(ours))

    starting = [threading.Thread(target=start, args=(1 + number % 4,)) for number in range(16)]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join(PATIENCE)
    assert len(told) == 16
    assert len(set(told)) == 1


@pytest.mark.covers("4:metrics")
def test_the_load_of_a_site_is_what_waits_and_what_it_has(store: JobStore) -> None:
    assert store.load("local") == Load(jobs=0, owners=0, oldest_seconds=0, attempts=0)
    waits = {"phase": Phase.QUEUED, "workload": Workload.WAITING, "attempt": 1}
    now = store.now()
    for number, owner in enumerate(("ann", "bob", "ann", "bob", "ann")):
        since = now - 100_000 * (number + 1)
        put(store, id=f"job{number}", owner=owner, site="local", queued=since, **waits)
    put(store, id="elsewhere", site="other", queued=now - 10**9, **waits)
    assert store.claim("local", ROOM, 60) == "job4"  # the oldest of ann's, who is first
    seen = store.load("local")
    assert (seen.jobs, seen.owners, seen.attempts) == (4, 2, 1)
    assert 400 <= seen.oldest_seconds < 460
