"""The mirror of a cluster: whatever lists and watches say in whatever order, the truth is seen in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from runners.base import Cause, Observation, State, Unreachable
from runners.kubernetes import following, mirror
from runners.kubernetes.cluster import Cluster
from runners.kubernetes.following import Order, Reader
from runners.kubernetes.mirror import Attempts, Mirror
from tests.unit.api_double import EVENTS, JOBS, PODS, ApiDouble, serving
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.covers("4:watcher-mirror")

Document = dict[str, Any]
Key = tuple[str, int]


def labels(key: Key) -> dict[str, str]:
    return {"uws-server/job": key[0], "uws-server/attempt": str(key[1])}


def job(key: Key, uid: str, over: str = "", **spec: Any) -> Document:
    conditions = [{"type": over, "status": "True", "reason": "BackoffLimitExceeded"}] if over else []
    main = {"name": "main", "image": "example/user:1"}
    return {
        "metadata": {"name": f"uws-{key[0]}-{key[1]}", "uid": uid, "labels": labels(key)},
        "spec": {"template": {"spec": {"containers": [main]}}, **spec},
        "status": {"conditions": conditions},
    }


def pod(key: Key, uid: str, state: str, exit_code: int = 0) -> Document:
    at = "2026-11-21T10:00:00Z"
    states: dict[str, tuple[str, Document, Document]] = {
        "waiting": ("Pending", {}, {"waiting": {"reason": "PodInitializing"}}),
        "running": ("Running", {"running": {"startedAt": at}}, {"running": {"startedAt": at}}),
    }
    ended = {"terminated": {"exitCode": exit_code, "startedAt": at, "finishedAt": at, "reason": "Completed"}}
    agent = {"terminated": {"exitCode": 0, "startedAt": at, "finishedAt": at}}
    phase, of_agent, of_main = states.get(state) or ("Succeeded", agent, ended)
    return {
        "metadata": {"name": uid, "uid": uid, "labels": labels(key), "creationTimestamp": at},
        "spec": {"nodeName": "node1"},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "main", "state": of_main}],
            "initContainerStatuses": [{"name": "agent", "state": of_agent}],
        },
    }


def refusal(key: Key, job_uid: str, message: str) -> Document:
    about = {"kind": "Job", "name": f"uws-{key[0]}-{key[1]}", "uid": job_uid}
    return {"metadata": {"name": "e", "uid": "e"}, "involvedObject": about, "message": message}


A, B = ("a", 1), ("b", 1)


# ---- over HTTP ---------------------------------------------------------------------------------------------


class Watched:
    """An API double and a mirror of it."""

    def __init__(self, double: ApiDouble, kubeconfig: Path) -> None:
        self.double = double
        self.kubeconfig = kubeconfig
        self.mirrors: list[tuple[Mirror, Cluster]] = []

    def mirror(self, relist: float = 60) -> Mirror:
        cluster = Cluster(str(self.kubeconfig))
        made = Mirror(cluster, "jobs", "archive", relist)
        self.mirrors.append((made, cluster))
        made.start()
        return made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Watched]:
    with serving(tmp_path) as (double, kubeconfig):
        watched = Watched(double, kubeconfig)
        yield watched
        for one, cluster in watched.mirrors:
            one.close()
            cluster.close()


def seen(mirror: Mirror) -> dict[Key, Observation]:
    return {(one.job_id, one.attempt): one for one in mirror.observations()}


def state(mirror: Mirror, key: Key) -> State | None:
    found = seen(mirror).get(key)
    return found.state if found else None


def test_what_was_there_and_what_comes_is_seen(api: Watched) -> None:
    for number in range(5):  # more than a page
        api.double.put(JOBS, job(("a", number), f"j{number}"))
    mirror = api.mirror()
    assert set(seen(mirror)) == {("a", number) for number in range(5)}
    api.double.put(PODS, pod(("a", 2), "p", "running"))
    until(lambda: state(mirror, ("a", 2)) is State.RUNNING, "the pod runs")
    api.double.put(PODS, pod(("a", 2), "p", "ended"))
    until(lambda: state(mirror, ("a", 2)) is State.ENDED, "the pod has ended")
    assert seen(mirror)["a", 2].outcome is not None


def test_wait_returns_at_news_and_not_at_words_that_change_nothing(api: Watched) -> None:
    api.double.put(JOBS, job(A, "j"))
    mirror = api.mirror()
    seen(mirror)
    mirror.wait(0)
    api.double.put(JOBS, job(A, "j", suspend=False))
    until(lambda: mirror._jobs.heard > 0 and ("jobs", "watch") in api.double.requests, "the watch")
    begun = time.monotonic()
    mirror.wait(0.3)
    assert time.monotonic() - begun >= 0.3
    api.double.put(PODS, pod(A, "p", "running"))
    mirror.wait(PATIENCE)
    assert state(mirror, A) is State.RUNNING


def test_a_watch_that_breaks_off_goes_on_where_it_was(api: Watched) -> None:
    api.double.put(JOBS, job(A, "j"))
    mirror = api.mirror()
    seen(mirror)
    for number in range(3):
        until(lambda number=number: api.double.requests.count((PODS, "watch")) > number, "a watch")  # type: ignore[misc]
        api.double.drop()
        api.double.put(PODS, pod(A, "p", "running" if number % 2 == 0 else "waiting"))
        wanted = State.RUNNING if number % 2 == 0 else State.STAGING
        until(lambda wanted=wanted: state(mirror, A) is wanted, "news after a break")  # type: ignore[misc]


def test_what_a_watch_can_no_longer_tell_is_listed(api: Watched) -> None:
    api.double.put(JOBS, job(A, "j"))
    api.double.put(JOBS, job(B, "k"))
    mirror = api.mirror()
    assert len(seen(mirror)) == 2
    lists = api.double.requests.count((JOBS, "list"))
    with api.double.news:
        del api.double.objects[JOBS]["uws-b-1"]
    api.double.put(PODS, pod(A, "p", "running"))
    api.double.compact()
    until(lambda: state(mirror, A) is State.RUNNING, "news after 410")
    until(lambda: api.double.requests.count((JOBS, "list")) > lists, "a list after 410")
    until(lambda: state(mirror, B) is State.LOST, "what was deleted without a word")


def test_a_silent_api_server_is_no_evidence(api: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TURN", 1)
    monkeypatch.setattr(mirror, "_SILENT", 2.5)
    api.double.put(JOBS, job(A, "j"))
    watching = api.mirror()
    until(lambda: api.double.requests.count((JOBS, "watch")) > 3, "turns without news")
    assert state(watching, A) is State.STAGING
    with api.double.news:
        api.double.silent = True

    def unreachable() -> bool:
        try:
            watching.observations()
        except Unreachable:
            return True
        return False

    until(unreachable, "that nothing is known")
    with pytest.raises(Unreachable, match="not been heard of"):
        watching.job(A)
    api.double.put(PODS, pod(A, "p", "running"))
    with api.double.news:
        api.double.silent = False
        api.double.news.notify_all()
    until(lambda: not unreachable() and state(watching, A) is State.RUNNING, "the API server is back")


def test_nothing_is_known_before_the_first_lists(api: Watched) -> None:
    api.double.before = lambda kind, what: (503, {"message": "starting"}) if kind == PODS else None
    mirror = api.mirror()
    with pytest.raises(Unreachable, match="does not answer"):
        mirror.observations(0.5)
    api.double.before = lambda kind, what: None
    assert mirror.observations() == []


def test_a_list_that_breaks_off_between_pages_ends_nothing(api: Watched) -> None:
    for number in range(5):
        api.double.put(JOBS, job(("a", number), f"j{number}"))
    mirror = api.mirror(relist=0.2)
    assert len(seen(mirror)) == 5
    expired = {"message": "The provided continue parameter is too old", "reason": "Expired"}
    api.double.before = lambda kind, what: (410, expired) if what == "page" else None
    tried = api.double.requests.count((JOBS, "page"))
    until(lambda: api.double.requests.count((JOBS, "page")) > tried + 1, "lists that break off")
    assert {one.state for one in mirror.observations()} == {State.STAGING}
    api.double.before = lambda kind, what: None
    api.double.put(JOBS, job(("a", 9), "j9"))
    until(lambda: len(seen(mirror)) == 6, "the lists are whole again")


def test_one_document_that_cannot_be_read_hides_no_other(
    api: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    api.double.put(JOBS, {"metadata": {"name": "odd", "uid": "odd", "labels": labels(A)}, "spec": 7})
    api.double.put(JOBS, job(B, "k"))
    mirror = api.mirror()
    assert set(seen(mirror)) == {B}
    api.double.raw(PODS, {"type": "ADDED", "object": {"metadata": {}}})
    api.double.raw(PODS, {"type": "ADDED", "object": {"metadata": {"uid": "x", "resourceVersion": "no"}}})
    api.double.put(PODS, pod(B, "p", "running"))
    until(lambda: state(mirror, B) is State.RUNNING, "news behind what cannot be read")
    assert "cannot be read" in caplog.text


def test_a_cluster_that_was_set_back_is_read_anew(api: Watched) -> None:
    for _ in range(20):
        api.double.put(JOBS, job(A, "j"))
    api.double.put(JOBS, job(B, "k"))
    mirror = api.mirror(relist=0.2)
    assert len(seen(mirror)) == 2
    with api.double.news:
        del api.double.objects[JOBS]["uws-b-1"]
        api.double.objects[JOBS]["uws-a-1"]["metadata"]["resourceVersion"] = "3"
        api.double.objects[JOBS]["uws-a-1"]["spec"]["suspend"] = True
    api.double.set_back(5)
    until(lambda: "queue" in seen(mirror)[A].reason, "the older state")
    until(lambda: state(mirror, B) is State.LOST, "what is not in the copy")
    api.double.put(PODS, pod(A, "p", "running"))
    until(lambda: state(mirror, A) is State.RUNNING, "news since")


def test_a_refusal_that_came_before_its_job_is_told(api: Watched) -> None:
    api.double.put(EVENTS, refusal(A, "j", "exceeded quota: small"))
    mirror = api.mirror()
    until(lambda: mirror._followed[2].done, "the events")
    api.double.put(JOBS, job(A, "j"))
    until(lambda: A in seen(mirror), "the Job")
    assert "exceeded quota" in seen(mirror)[A].reason


def test_an_ended_job_whose_pod_was_not_seen_yet_is_not_lost(api: Watched) -> None:
    mirror = api.mirror()
    assert seen(mirror) == {}
    until(lambda: (PODS, "watch") in api.double.requests, "a watch of pods")
    with api.double.news:  # the news of pods is late: only a list tells
        api.double.put(PODS, pod(A, "p", "ended"))
        api.double.told.clear()
    api.double.put(JOBS, job(A, "j", "Complete"))
    said: list[State] = []

    def ended() -> bool:
        found = state(mirror, A)
        said.extend([found] if found else [])
        return found is State.ENDED

    until(ended, "the end of the attempt")
    assert State.LOST not in said


# ---- without threads ---------------------------------------------------------------------------------------


class Told:
    """`Attempts` with `Order`s, told by hand."""

    def __init__(self) -> None:
        self.begun = 1
        self.wanted = 0
        self.now = 0.0
        self.attempts = Attempts(lambda: self.begun, self._want, lambda: None, lambda: self.now)
        self.readers: dict[str, Reader] = {JOBS: self.attempts.jobs, PODS: self.attempts.pods}
        self.orders = {JOBS: Order(), PODS: Order()}
        self.done = 1

    def _want(self) -> None:
        self.wanted += 1

    def event(self, kind: str, what: str, document: Document, version: int) -> None:
        uid = document["metadata"]["uid"]
        document = with_version(document, version)
        if self.orders[kind].event(what, uid, version):
            if what == "DELETED":
                self.readers[kind].removed(uid, document)
            else:
                self.readers[kind].changed(document)

    def ask(self, kind: str) -> None:
        if kind == PODS:
            self.begun += 1
        self.orders[kind].asked()

    def begin(self, kind: str, version: int) -> None:
        self.ask(kind)
        self.orders[kind].begin(version)

    def tell(self, kind: str, document: Document, version: int) -> None:
        if self.orders[kind].listed(document["metadata"]["uid"], version):
            self.readers[kind].changed(with_version(document, version))

    def end(self, kind: str, version: int) -> None:
        for uid in self.orders[kind].end(version):
            self.readers[kind].removed(uid, None)
        self.readers[kind].listed(self.begun if kind == PODS else 1)

    def whole(self, kind: str, present: list[tuple[Document, int]], version: int) -> None:
        """A list in one go."""
        self.begin(kind, version)
        for document, of in present:
            self.tell(kind, document, of)
        self.end(kind, version)

    def state(self, key: Key) -> State | None:
        found = self.attempts.observed.get(key)
        return found.state if found else None

    def kept(self) -> int:
        """How much is kept in all."""
        of = self.attempts
        places: list[Any] = [
            *(of.observed, of._doubts, of._ghosts, of._ended, of.jobs._keys, of.jobs.by_key, of.jobs.dropped),
            *(
                of.pods._keys,
                of.pods._by_key,
                of.pods._dropped,
                of.pods._ends,
                of.refusals._uids,
                of.refusals._why,
            ),
            *(order._known for order in self.orders.values()),
        ]
        return sum(len(place) for place in places)


def with_version(document: Document, version: int) -> Document:
    return {**document, "metadata": {**document["metadata"], "resourceVersion": str(version)}}


def test_a_list_that_is_older_than_an_event_does_not_undo_it() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    told.begin(JOBS, 10)
    told.begin(PODS, 10)
    told.event(PODS, "ADDED", pod(A, "p", "running"), 11)
    told.tell(PODS, pod(A, "p", "waiting"), 9)
    assert told.state(A) is State.RUNNING
    told.event(JOBS, "DELETED", job(A, "j"), 12)
    told.tell(JOBS, job(A, "j"), 5)
    assert told.attempts.jobs._keys == {}
    told.end(JOBS, 10)
    told.end(PODS, 10)
    assert told.state(A) is State.RUNNING  # its pod goes on


def test_a_list_brings_nothing_back_that_went_while_its_answer_was_on_its_way() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j", "Complete"), 5)
    told.ask(JOBS)
    told.event(JOBS, "DELETED", job(A, "j", "Complete"), 12)
    told.orders[JOBS].begin(10)
    told.tell(JOBS, job(A, "j"), 5)
    told.end(JOBS, 10)
    assert not told.attempts.jobs.knows("j")


def test_what_came_after_a_list_is_not_gone_because_the_list_has_it_not() -> None:
    told = Told()
    told.begin(JOBS, 10)
    told.event(JOBS, "ADDED", job(A, "j"), 11)
    told.end(JOBS, 10)
    assert told.state(A) is State.STAGING
    assert told.attempts.jobs.knows("j")


def test_a_watch_that_repeats_itself_brings_nothing_back() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    told.event(JOBS, "DELETED", job(A, "j"), 9)
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    assert not told.attempts.jobs.knows("j")


def test_a_job_made_again_under_the_same_name_is_another() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "old"), 5)
    told.event(JOBS, "ADDED", job(A, "new"), 8)
    told.event(JOBS, "DELETED", job(A, "old"), 9)
    assert told.state(A) is State.STAGING
    assert told.attempts.jobs.by_key[A].uid == "new"


def test_what_we_deleted_stays_deleted_whatever_is_still_said_of_it() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j", "Complete"), 5)
    told.event(PODS, "ADDED", pod(A, "p", "ended"), 6)
    told.attempts.drop(A, "j")
    assert told.attempts.observed == {}
    told.event(JOBS, "MODIFIED", job(A, "j", "Complete"), 7)
    told.event(PODS, "MODIFIED", pod(A, "p", "ended"), 8)
    assert told.attempts.observed == {}
    told.event(JOBS, "DELETED", job(A, "j", "Complete"), 9)
    told.event(PODS, "DELETED", pod(A, "p", "ended"), 10)
    assert told.kept() == 0


def test_a_pod_that_a_list_misses_may_still_tell_its_end() -> None:
    """The list may be ahead of the watch that will tell how the pod ended."""
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    told.event(PODS, "ADDED", pod(A, "p", "running"), 6)
    told.event(JOBS, "MODIFIED", job(A, "j", "Complete"), 9)
    told.whole(PODS, [], 10)
    assert told.state(A) is State.RUNNING
    told.event(PODS, "DELETED", pod(A, "p", "ended"), 8)
    assert told.state(A) is State.ENDED


def test_an_ended_job_is_lost_once_a_list_of_pods_that_was_asked_for_later_has_none() -> None:
    told = Told()
    told.begin(PODS, 5)
    told.event(JOBS, "ADDED", job(A, "j", "Failed"), 6)
    told.end(PODS, 5)  # asked for before the end was known
    assert told.state(A) is State.FINISHING
    assert told.wanted
    told.whole(PODS, [], 7)
    assert told.state(A) is State.LOST
    told.event(JOBS, "MODIFIED", job(A, "j", "Failed"), 8)
    assert told.state(A) is State.LOST


@pytest.mark.covers("4:manifest-proves")
def test_the_end_of_a_complete_job_is_its_pods_word_where_a_later_list_may_have_it() -> None:
    told = Told()
    told.begin(PODS, 5)
    told.event(JOBS, "ADDED", job(A, "j", "Complete"), 6)
    told.end(PODS, 5)  # asked for before the end was known
    assert told.state(A) is State.FINISHING
    told.whole(PODS, [(pod(A, "p", "ended", 3), 4)], 7)
    outcome = told.attempts.observed[A].outcome
    assert outcome is not None
    assert outcome.exit_code == 3


@pytest.mark.parametrize("deleted", [False, True])
def test_a_complete_job_without_a_pod_has_succeeded_whoever_deleted_it_since(deleted: bool) -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j", "Complete"), 6)
    if deleted:
        told.event(JOBS, "DELETED", job(A, "j", "Complete"), 7)
    told.whole(PODS, [], 8)
    outcome = told.attempts.observed[A].outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED


def test_a_job_deleted_by_hand_is_told_as_lost_and_forgotten_after_a_while() -> None:
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    told.event(PODS, "ADDED", pod(A, "p", "running"), 6)
    told.event(JOBS, "DELETED", job(A, "j"), 7)
    told.now = 1000.0
    told.whole(JOBS, [], 7)
    assert told.state(A) is State.RUNNING
    told.event(PODS, "DELETED", pod(A, "p", "running"), 8)
    told.whole(PODS, [], 9)
    assert told.state(A) is State.LOST
    outcome = told.attempts.observed[A].outcome
    assert outcome is not None
    assert outcome.cause is Cause.LOST
    told.whole(JOBS, [], 10)
    assert told.kept() == 0


@pytest.mark.covers("4:orphans")
def test_a_pod_without_a_job_is_told_of_once_a_list_that_was_asked_for_later_has_none() -> None:
    told = Told()
    told.begin(JOBS, 5)
    told.event(PODS, "ADDED", pod(A, "p", "running"), 7)
    told.end(JOBS, 5)  # it may be older than the Job
    assert told.state(A) is None
    told.whole(JOBS, [], 8)
    assert told.state(A) is State.RUNNING
    assert told.attempts.orphaned(A)
    told.event(PODS, "MODIFIED", pod(A, "p", "ended"), 9)
    assert told.state(A) is State.ENDED
    told.event(PODS, "DELETED", pod(A, "p", "ended"), 10)
    told.now = 1000.0
    told.whole(JOBS, [], 11)
    assert told.kept() == 0


@pytest.mark.covers("4:orphans")
def test_a_pod_that_is_told_of_before_its_job_is_no_orphan() -> None:
    told = Told()
    told.event(PODS, "ADDED", pod(A, "p", "running"), 7)
    told.whole(JOBS, [], 5)
    told.event(JOBS, "ADDED", job(A, "j"), 6)
    told.whole(JOBS, [(job(A, "j"), 6)], 8)
    assert told.state(A) is State.RUNNING
    found = told.attempts.job(A)
    assert found is not None
    assert not found.gone


@pytest.mark.covers("4:orphans")
def test_a_job_that_takes_the_place_of_one_that_is_gone_is_known_by_itself() -> None:
    told = Told()
    told.event(PODS, "ADDED", pod(A, "p", "running"), 5)
    for version in (6, 7):
        told.whole(JOBS, [], version)
    told.event(JOBS, "ADDED", job(A, "stone", suspend=True), 8)
    owned = pod(A, "p", "running")
    owned["metadata"]["ownerReferences"] = [{"controller": True, "kind": "Job", "uid": "stone"}]
    told.event(PODS, "MODIFIED", owned, 9)
    found = told.attempts.job(A)
    assert found is not None
    assert found.uid == "stone"
    assert not told.attempts.orphaned(A)


@pytest.mark.parametrize("grace", [30, 4 * 3600])
def test_a_pod_that_nobody_ends_is_no_longer_known_until_somebody_does(grace: int) -> None:
    """Its node does not answer: the cluster tells of it as running for ever."""
    told = Told()
    told.event(JOBS, "ADDED", job(A, "j"), 5)
    told.event(PODS, "ADDED", pod(A, "p", "running"), 6)
    leaving = pod(A, "p", "running")
    leaving["metadata"] |= {
        "deletionTimestamp": "2026-11-21T10:00:30Z",
        "deletionGracePeriodSeconds": grace,
    }
    told.event(PODS, "MODIFIED", leaving, 7)
    told.now = 59.0
    told.whole(PODS, [(leaving, 7)], 8)
    assert told.state(A) is State.RUNNING
    told.now = 61.0
    told.whole(PODS, [(leaving, 7)], 9)
    assert told.state(A) is None
    told.event(PODS, "DELETED", pod(A, "p", "ended", 143), 10)
    assert told.state(A) in (State.ENDED, State.LOST)
    told.attempts.drop(A, "j")
    told.event(JOBS, "DELETED", job(A, "j"), 11)
    assert told.kept() == 0


def test_a_late_word_on_a_job_that_is_gone_leaves_the_one_that_took_its_name() -> None:
    """A list tells of the newer one before a watch that is behind tells of the older one's life and end."""
    told, key = Told(), ("a", 1)
    told.whole(PODS, [], 3)
    told.whole(JOBS, [(job(key, "newer"), 3)], 3)
    told.event(JOBS, "ADDED", job(key, "older"), 1)
    told.event(JOBS, "DELETED", job(key, "older"), 2)
    told.now += 1e6
    told.whole(JOBS, [(job(key, "newer"), 3)], 3)
    assert told.state(key) is State.STAGING


KINDS = st.sampled_from([JOBS, PODS])
KEYS = st.sampled_from([A, B])
STATES = st.sampled_from(["waiting", "running", "ended"])
AMOUNTS = st.integers(1, 3)


class Interleaving(RuleBasedStateMachine):
    """Two attempts, told by watches that lag, break and skip, and by lists that take long and break off."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.version = 0
        self.now: dict[str, dict[Key, tuple[Document, int]]] = {JOBS: {}, PODS: {}}
        self.history: dict[str, list[tuple[str, Document, int]]] = {JOBS: [], PODS: []}
        self.watched = {JOBS: 0, PODS: 0}
        self.asked: dict[str, tuple[list[tuple[Document, int]], int] | None] = {JOBS: None, PODS: None}
        self.listing: dict[str, tuple[list[tuple[Document, int]], int] | None] = {JOBS: None, PODS: None}

    def happens(self, kind: str, what: str, key: Key, document: Document) -> None:
        self.version += 1
        if what == "DELETED":
            del self.now[kind][key]
        else:
            self.now[kind][key] = document, self.version
        self.history[kind].append((what, document, self.version))

    def put(self, kind: str, key: Key, make: Callable[[str], Document]) -> None:
        before = self.now[kind].get(key)
        uid = before[0]["metadata"]["uid"] if before else f"{kind}{self.version}"
        self.happens(kind, "MODIFIED" if before else "ADDED", key, make(uid))

    @rule(key=KEYS, over=st.sampled_from(["", "", "Failed", "Complete"]))
    def a_job(self, key: Key, over: str) -> None:
        self.put(JOBS, key, lambda uid: job(key, uid, over))

    @rule(key=KEYS, state=STATES)
    def a_pod(self, key: Key, state: str) -> None:
        if not self.ended(key):
            self.put(PODS, key, lambda uid: pod(key, uid, state))

    @rule(kind=KINDS, key=KEYS)
    def deleted(self, kind: str, key: Key) -> None:
        # How a pod ended that is gone is known to who saw it only: see the tests above.
        if key in self.now[kind] and not (kind == PODS and self.ended(key)):
            self.happens(kind, "DELETED", key, self.now[kind][key][0])

    def ended(self, key: Key) -> bool:
        found = self.now[PODS].get(key)
        return found is not None and found[0]["status"]["phase"] == "Succeeded"

    @rule(kind=KINDS, most=AMOUNTS)
    def watch_tells(self, kind: str, most: int) -> None:
        for what, document, version in [e for e in self.history[kind] if e[2] > self.watched[kind]][:most]:
            self.told.event(kind, what, document, version)
            self.watched[kind] = version

    @rule(kind=KINDS)
    def watch_skips(self, kind: str) -> None:
        self.watched[kind] = self.version

    @rule(kind=KINDS, back=AMOUNTS)
    def watch_repeats(self, kind: str, back: int) -> None:
        self.watched[kind] = max(0, self.watched[kind] - back)

    @rule(kind=KINDS)
    def list_is_asked_for(self, kind: str) -> None:
        if self.asked[kind] is None and self.listing[kind] is None:
            self.told.ask(kind)
            self.asked[kind] = list(self.now[kind].values()), self.version

    @rule(kind=KINDS)
    def list_begins(self, kind: str) -> None:
        if (answer := self.asked[kind]) is not None:
            self.told.orders[kind].begin(answer[1])
            self.asked[kind], self.listing[kind] = None, answer

    @rule(kind=KINDS, most=AMOUNTS)
    def list_goes_on(self, kind: str, most: int) -> None:
        if (under_way := self.listing[kind]) is not None:
            for document, version in under_way[0][:most]:
                self.told.tell(kind, document, version)
            self.listing[kind] = under_way[0][most:], under_way[1]

    @rule(kind=KINDS)
    def list_ends(self, kind: str) -> None:
        if (under_way := self.listing[kind]) is not None:
            self.list_goes_on(kind, len(under_way[0]))
            self.told.end(kind, under_way[1])
            self.listing[kind] = None

    @rule(kind=KINDS)
    def list_breaks_off(self, kind: str) -> None:
        if self.asked[kind] is not None or self.listing[kind] is not None:
            self.told.orders[kind].broken()
            self.asked[kind] = self.listing[kind] = None

    def teardown(self) -> None:
        """Once all is told, what is observed is what a mirror that begins now would observe."""
        fresh = Told()
        for key in self.now[PODS].keys() - self.now[JOBS].keys():  # as the garbage collector does
            self.happens(PODS, "DELETED", key, self.now[PODS][key][0])
        for kind in (JOBS, PODS):
            self.list_begins(kind)
            self.list_ends(kind)
            self.watch_tells(kind, len(self.history[kind]))
        for told in (self.told, fresh):
            for kind in (PODS, JOBS, PODS, JOBS, PODS, JOBS):
                told.now += 1e6  # who wanted to note that a Job is gone has done so
                told.whole(kind, list(self.now[kind].values()), self.version)
        assert self.told.attempts.observed == fresh.attempts.observed
        assert self.told.kept() == fresh.kept()


Interleaving.TestCase.settings = settings(stateful_step_count=40, deadline=None)
test_any_interleaving_ends_in_the_final_state = Interleaving.TestCase
