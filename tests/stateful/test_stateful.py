"""Random requests and random events at the site, against the server and against a model of it.

The real Flask application, use cases, worker, watcher and reconciler, on the memory store, Redis 7.0 and
Valkey 9; the site is the fake runner, and the clock stands still until a rule moves it. After every rule
each job must be in the same state in the store, in the model and over HTTP.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from job_templates import catalog
from runners.base import Cause, Outcome
from runners.fake import FakeRunner, FakeSite
from runners.watcher import Watcher
from runners.worker import Worker
from tests.jobs import ROOM, bare_spec
from tests.redis_servers import PROGRAMS
from tests.stateful.model import EDGES, FINAL, LOST_AFTER, Attempt, ModelJob
from uws_server.auth.base import Header
from uws_server.domain.caller import Caller
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Workload
from uws_server.factory import new_job_id
from uws_server.queue.memory import MemoryQueue
from uws_server.service.changes import Changes
from uws_server.service.door import Door, agent_token
from uws_server.service.jobs import Jobs
from uws_server.service.reconcile import Reconciler
from uws_server.service.results import Results
from uws_server.service.waiting import Waiting
from uws_server.site_offers import SiteOffer
from uws_server.storage.links import Links
from uws_server.storage.memory import MemoryStore as MemoryObjects
from uws_server.store.base import JobStore
from uws_server.store.memory import MemoryStore
from uws_server.store.redis import RedisStore
from uws_server.web.app import create_app
from uws_server.web.parts import Parts

_Step = TypeVar("_Step", bound=Callable[..., None])
SECRET = b"s" * 32
CATALOG = catalog.load([Path(__file__).parents[1] / "crash" / "templates"], shipped=False)
SERVICE = "probe"
CLAIM_SECONDS = 10_000.0
LONG = 20_000_000  # ms; a claim has lapsed by then
OWNERS = ("", "ann")
MOST_JOBS = 3
WORK = {
    Workload.NONE: "none",
    Workload.WAITING: "waiting",
    Workload.CLAIMED: "claimed",
    Workload.ACTIVE: "active",
    Workload.STOPPING: "stopping",
}


JOB: st.SearchStrategy[str] = st.just("a job")  # any of those that were made
CALLER = st.sampled_from(["its owner", "its owner", "its owner", "somebody else"])
DATA: st.SearchStrategy[str] = st.just("more to draw")
STEPS: dict[str, list[tuple[str, dict[str, st.SearchStrategy[Any]]]]] = {"request": [], "turn": []}


def step(kind: str, weight: int, **strategies: st.SearchStrategy[Any]) -> Callable[[_Step], _Step]:
    """One of the things that can happen; how often is ours to say, not left to chance."""

    def enter(function: _Step) -> _Step:
        STEPS[kind] += [(function.__name__, strategies)] * weight
        return function

    return enter


class ByHeader:
    """Whoever the header X-User names."""

    def authenticate(self, header: Header) -> Caller:
        return Caller(header("X-User") or "")


class WorkerDied(BaseException):
    """The end of a worker's process, at a place where nothing may catch it."""


class Dying(FakeRunner):
    """Lets the worker die before or after its call of `start`."""

    when = ""

    def start(self, *given: Any, **named: Any) -> None:
        if self.when == "before":
            raise WorkerDied
        super().start(*given, **named)
        if self.when == "after":
            raise WorkerDied


class System(RuleBasedStateMachine):
    """The server, and the model beside it."""

    new_store: Callable[[Callable[[], int]], JobStore]

    @initialize()
    def begin(self) -> None:
        self.now = time.time_ns() // 1_000_000
        self.lapsed = False
        clock = lambda: self.now  # noqa: E731
        self.store = type(self).new_store(lambda: time.time_ns() // 1_000_000)
        # Claims and leases lapse by the wall clock, as they do in Redis; all else by ours.
        setattr(self.store, "now", clock)  # noqa: B010
        self.links = Links(SECRET, "https://store.example")
        self.objects = MemoryObjects(self.links)
        self.queue = MemoryQueue()
        self.changes = Changes(self.store, self.queue, clock)
        jobs = Jobs(
            store=self.store,
            changes=self.changes,
            waiting=Waiting(self.store, 10),
            objects=self.objects,
            catalog=CATALOG,
            sites={"local": SiteOffer("local", frozenset({"command"}), ROOM)},
            clock=clock,
            new_id=new_job_id,
        )
        parts = Parts(
            jobs=jobs,
            results=Results(self.objects),
            door=Door(self.store, self.changes, self.objects, SECRET, 1024, spec=bare_spec),
            catalog=CATALOG,
            store=self.store,
            objects=self.objects,
            links=self.links,
            authenticator=ByHeader(),
        )
        self.client: FlaskClient = create_app(parts).test_client()
        self.site = FakeSite(clock)
        self.runner = Dying(self.site)
        self.worker = Worker(
            site="local",
            capacity=ROOM,
            claim_seconds=CLAIM_SECONDS,
            store=self.store,
            changes=self.changes,
            catalog=CATALOG,
            runner=self.runner,
            agent_url="http://agent.example",
            secret=SECRET,
            monotonic=itertools.count(0, 60).__next__,  # at each turn, long enough ago to ask again
        )
        self.reconciler = Reconciler(
            store=self.store,
            changes=self.changes,
            queue=self.queue,
            objects=self.objects,
            sites=("local",),
            holder="reconciler",
        )
        self.watcher = self._new_watcher()
        self.model: dict[str, ModelJob] = {}
        self.reappear: dict[tuple[str, int], Callable[[], None]] = {}
        self.keys: dict[str, tuple[str, bool]] = {}
        for owner in OWNERS:  # nothing can happen without jobs
            self.create(owner, run=True, in_query=False)

    def _new_watcher(self) -> Watcher:
        return Watcher(
            site="local",
            holder="watcher",
            store=self.store,
            changes=self.changes,
            objects=self.objects,
            runner=self.runner,
            attempts=2,
            clock=lambda: self.now,
            lost_after=LOST_AFTER / 1000,
            relist_seconds=0,
            monotonic=lambda: self.now / 1000,
        )

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self._events_are_legal()
            if isinstance(self.store, RedisStore):
                self.store.close()

    def _few(self) -> bool:
        """Few jobs, so that each comes far."""
        return sum(not job.removed and job.phase != "ARCHIVED" for job in self.model.values()) < MOST_JOBS

    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        """A client asks for something."""
        self._do(data, "request")

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        """Something happens at the site, or in a process of the server."""
        self._do(data, "turn")

    def _do(self, data: st.DataObject, kind: str) -> None:
        steps = [(name, given) for name, given in STEPS[kind] if self.model or "job" not in given]
        if self.model and not self._few():
            steps = [one for one in steps if one[0] != "create"]
        name = data.draw(st.sampled_from([name for name, _ in steps]))
        given: dict[str, Any] = {}
        for word, strategy in dict(steps)[name].items():
            if strategy is DATA:
                given[word] = data
            elif strategy is JOB:
                given[word] = data.draw(st.sampled_from(list(self.model)))
            elif strategy is CALLER:
                owner = self.model[given["job"]].owner
                others = [other for other in OWNERS if other != owner]
                given[word] = owner if data.draw(CALLER) == "its owner" else others[0]
            else:
                given[word] = data.draw(strategy)
        note(
            f"{name}({', '.join(f'{word}={value!r}' for word, value in given.items() if value is not data)})"
        )
        getattr(self, name)(**given)

    # -- over HTTP -----------------------------------------------------------------------------------

    def ask(self, method: str, path: str, owner: str, form: Any = None, **headers: str) -> TestResponse:
        self.now += 7
        given = Headers({"X-User": owner, **headers})
        return self.client.open(f"/{SERVICE}/async{path}", method=method, data=form, headers=given)

    def expect(self, job_id: str, owner: str, status: int | Callable[[ModelJob], int]) -> int:
        """The status of a request to a job, by whoever asks; a function says it for the owner."""
        job = self.model[job_id]
        if not job.visible:
            return 404
        if job.owner != owner:
            return 403
        return status if isinstance(status, int) else status(job)

    def told(
        self, job_id: str, owner: str, form: Any, path: str, status: int | Callable[[ModelJob], int]
    ) -> None:
        answer = self.ask("POST", f"/{job_id}{path}", owner, form)
        assert answer.status_code == self.expect(job_id, owner, status), answer.text
        if answer.status_code == 303:
            assert answer.location.endswith(f"/{SERVICE}/async/{job_id}")

    @step("request", 2, owner=st.sampled_from(OWNERS), run=st.booleans(), in_query=st.booleans())
    def create(self, owner: str, run: bool, in_query: bool) -> None:
        form = {"port": "1"} | ({"PHASE": "RUN"} if run and not in_query else {})
        answer = self.ask("POST", "?PHASE=RUN" if run and in_query else "", owner, form)
        assert answer.status_code == 303
        job_id = answer.location.rpartition("/")[2]
        job = self.model[job_id] = ModelJob(owner, self.now, self.now + 86_400_000)
        if run:
            assert job.run() == 303

    @step(
        "request",
        1,
        wrong=st.sampled_from(
            [
                ({}, 400),
                ({"port": "x"}, 400),
                ({"port": "1", "unknown": "2"}, 400),
                ({"port": "1", "PHASE": "ABORT"}, 400),
                ({"port": "1", "PHASE": "run"}, 400),
                ({"port": ["1", "2"]}, 400),
                ({"port": "1", "EXECUTIONDURATION": "-1"}, 400),
                ({"port": "1", "DESTRUCTION": "soon"}, 400),
            ]
        ),
    )
    def create_wrongly(self, wrong: tuple[dict[str, Any], int]) -> None:
        answer = self.ask("POST", "", "", wrong[0])
        assert answer.status_code == wrong[1], answer.text

    @step("request", 1, key=st.sampled_from(["k1", "k2"]), run=st.booleans())
    def create_with_a_key(self, key: str, run: bool) -> None:
        if key not in self.keys and not self._few():
            return
        form = {"port": "1"} | ({"PHASE": "RUN"} if run else {})
        answer = self.ask("POST", "", "", form, **{"Idempotency-Key": key})
        known = self.keys.get(key)
        if known is None:
            assert answer.status_code == 303
            job_id = answer.location.rpartition("/")[2]
            self.keys[key] = (job_id, run)
            job = self.model[job_id] = ModelJob("", self.now, self.now + 86_400_000)
            if run:
                job.run()
            return
        if known[1] != run or self.model[known[0]].deleted:
            assert answer.status_code == 409
        else:
            assert answer.status_code == 303
            assert answer.location.endswith(known[0])

    @step("request", 5, job=JOB, owner=CALLER)
    def run(self, job: str, owner: str) -> None:
        self.told(job, owner, {"PHASE": "RUN"}, "/phase", ModelJob.run)

    @step("request", 2, job=JOB, owner=CALLER, leniently=st.booleans())
    def abort(self, job: str, owner: str, leniently: bool) -> None:
        self.told(job, owner, {"PHASE": "ABORT"}, "" if leniently else "/phase", ModelJob.abort)

    @step("request", 2, job=JOB, owner=CALLER, by_post=st.booleans())
    def delete(self, job: str, owner: str, by_post: bool) -> None:
        form = {"ACTION": "DELETE"} if by_post else None
        answer = self.ask("POST" if by_post else "DELETE", f"/{job}", owner, form)
        assert answer.status_code == self.expect(job, owner, lambda found: found.delete(self.now))

    @step("request", 1, job=JOB, value=st.integers(0, 9), put=st.booleans())
    def set_parameter(self, job: str, value: int, put: bool) -> None:
        owner = self.model[job].owner
        change: Callable[[ModelJob], int] = lambda found: found.set_note("port", str(value))  # noqa: E731
        if put:
            answer = self.ask("PUT", f"/{job}/parameters/port", owner, str(value).encode())
            assert answer.status_code == self.expect(job, owner, change), answer.text
        else:
            self.told(job, owner, {"port": str(value)}, "/parameters", change)

    @step("request", 2, job=JOB, seconds=st.sampled_from([0, 10, 3600, 100_000]), owner=CALLER)
    def set_duration(self, job: str, seconds: int, owner: str) -> None:
        # The template's longest is an hour, which also stands for "unlimited".
        clipped = min(seconds or 3600, 3600)
        form = {"EXECUTIONDURATION": str(seconds)}
        self.told(job, owner, form, "/executionduration", lambda found: found.set_duration(clipped))

    @step("request", 2, job=JOB, days=st.sampled_from([-1, 0, 2, 1000]), owner=CALLER)
    def set_destruction(self, job: str, days: int, owner: str) -> None:
        at = self.now + days * 86_400_000
        clipped = min(at, self.now + 7 + 30 * 86_400_000)
        form = {"DESTRUCTION": to_iso(at)}
        self.told(job, owner, form, "/destruction", lambda found: found.set_destruction(clipped))

    @step(
        "request",
        1,
        job=JOB,
        wrong=st.sampled_from(
            [
                ("/phase", {"PHASE": "HELD"}),
                ("/phase", {"PHASE": "run"}),
                ("/phase", {}),
                ("/executionduration", {"EXECUTIONDURATION": "1.5"}),
                ("/destruction", {"DESTRUCTION": "tomorrow"}),
                ("", {"ACTION": "delete"}),
                ("", {}),
            ]
        ),
    )
    def change_wrongly(self, job: str, wrong: tuple[str, dict[str, str]]) -> None:
        # What cannot be understood is said to be so before anybody's job is looked at.
        answer = self.ask("POST", f"/{job}{wrong[0]}", "", wrong[1])
        assert answer.status_code in {400, self.expect(job, "", 400)}, answer.text

    @step(
        "request",
        2,
        owner=st.sampled_from(OWNERS),
        phases=st.lists(
            st.sampled_from(["PENDING", "QUEUED", "EXECUTING", "COMPLETED", "ARCHIVED"]), max_size=3
        ),
        last=st.none() | st.integers(1, 5),
        after=st.none() | st.integers(0, 10),
    )
    def read_list(self, owner: str, phases: list[str], last: int | None, after: int | None) -> None:
        mine = [(job.created, job_id) for job_id, job in self.model.items() if job.owner == owner]
        since = sorted(mine)[min(after, len(mine) - 1)][0] if mine and after is not None else None
        query = [f"PHASE={phase}" for phase in phases]
        if last is not None:
            query.append(f"LAST={last}")
        if since is not None:
            query.append(f"AFTER={quote(to_iso(since))}")
        answer = self.ask("GET", f"?{'&'.join(query)}", owner, Accept="application/json")
        assert answer.status_code == 200, answer.text
        wanted = sorted(
            (
                (job.created, job_id, job.phase)
                for job_id, job in self.model.items()
                if job.owner == owner
                and job.visible
                and (job.phase in phases if phases else job.phase != "ARCHIVED")
                and (since is None or job.created > since)
            ),
            reverse=True,
        )[:last]
        found = [(entry["jobId"], entry["phase"]) for entry in json.loads(answer.data)["jobs"]]
        assert found == [(job_id, phase) for _, job_id, phase in wanted]

    @step(
        "request",
        1,
        query=st.sampled_from(["LAST=0", "LAST=x", "PHASE=executing", "AFTER=yesterday", "LAST=1&LAST=2"]),
    )
    def read_list_wrongly(self, query: str) -> None:
        assert self.ask("GET", f"?{query}", "").status_code == 400

    @step("request", 2, job=JOB, owner=CALLER)
    def read(self, job: str, owner: str) -> None:
        model = self.model[job]
        for path in ("", "/phase", "/parameters", "/results", "/destruction", "/executionduration", "/owner"):
            answer = self.ask("GET", f"/{job}{path}", owner, Accept="application/json")
            assert answer.status_code == self.expect(job, owner, 200), path
        answer = self.ask("GET", f"/{job}/error", owner)
        assert answer.status_code == self.expect(job, owner, 200 if model.error else 404)
        assert self.ask("GET", f"/{job}/nothing", owner).status_code == 404
        answer = self.ask("GET", f"/{job}/results/result", owner)
        assert answer.status_code == self.expect(job, owner, 200 if model.results else 404)

    # -- the worker ----------------------------------------------------------------------------------

    @step("turn", 6, when=st.sampled_from(["", "", "before", "after"]))
    def start_waiting(self, when: str) -> None:
        self.runner.when = when
        with suppress(WorkerDied):
            self.worker.start_waiting()
        self.runner.when = ""
        waiting = [(job_id, job) for job_id, job in self.model.items() if job.work == "waiting"]
        if not when:
            for _, job in waiting:
                job.started()
            return
        # It died with the first claim that it made.
        taken = [job for job_id, job in waiting if self._stored(job_id).workload is Workload.CLAIMED]
        assert len(taken) == min(1, len(waiting))
        for job in taken:
            job.work = "claimed"
            if when == "after":
                job.site.setdefault(job.attempt, Attempt())

    @step("turn", 1)
    def start_at_a_busy_site(self) -> None:
        self.runner.busy = "no room"
        self.worker.start_waiting()
        self.runner.busy = ""

    @step("turn", 3)
    def stop_due(self) -> None:
        self.worker.stop_due()
        for job in self.model.values():
            if job.work == "stopping" and not job.removed:
                job.stop(job.attempt)

    # -- the site ------------------------------------------------------------------------------------

    def _at_site(self, **wanted: bool) -> list[tuple[str, int, Attempt]]:
        return [
            (job_id, number, attempt)
            for job_id, job in self.model.items()
            for number, attempt in job.site.items()
            if not attempt.cause
            and ("started" not in wanted or (attempt.started is not None) is wanted["started"])
        ]

    @step("turn", 6, data=DATA)
    def code_starts(self, data: st.DataObject) -> None:
        if not self._at_site(started=False):
            return
        job_id, number, attempt = data.draw(st.sampled_from(self._at_site(started=False)))
        self.runner.run(job_id, number)
        attempt.started = self.now

    @step("turn", 4, data=DATA, with_manifest=st.sampled_from([True, True, False]))
    def code_succeeds(self, data: st.DataObject, with_manifest: bool) -> None:
        if not self._at_site(started=True):
            return
        job_id, number, attempt = data.draw(st.sampled_from(self._at_site(started=True)))
        if with_manifest:
            self._hand_in(job_id, number)
        self.runner.end(job_id, number, Outcome(Cause.SUCCEEDED, exit_code=0))
        attempt.cause = "succeeded"

    @step(
        "turn",
        2,
        data=DATA,
        cause=st.sampled_from(
            [Cause.FAILED, Cause.TIMED_OUT, Cause.STAGE_OUT, Cause.REFUSED, *[Cause.LOST] * 4]
        ),
    )
    def attempt_ends(self, data: st.DataObject, cause: Cause) -> None:
        if not self._at_site():
            return
        job_id, number, attempt = data.draw(st.sampled_from(self._at_site()))
        if cause is Cause.LOST:
            self.runner.lose(job_id, number)
        else:
            self.runner.end(job_id, number, Outcome(cause, "it ended", transient=cause is Cause.STAGE_OUT))
        attempt.cause = cause.value

    @step("turn", 2, data=DATA)
    def attempt_vanishes(self, data: st.DataObject) -> None:
        """What the site was not yet recorded to have taken would be started again under its number."""
        known = [
            (job_id, number)
            for job_id, job in self.model.items()
            for number in job.site
            if number != job.attempt or job.work not in ("waiting", "claimed")
        ]
        if not known:
            return
        job_id, number = data.draw(st.sampled_from(known))
        self.reappear[job_id, number] = self.runner.vanish(job_id, number)
        self.model[job_id].vanished[number] = self.model[job_id].site.pop(number)

    @step("turn", 2, data=DATA)
    def attempt_reappears(self, data: st.DataObject) -> None:
        hidden = [
            (job_id, number)
            for job_id, job in self.model.items()
            for number in job.vanished
            if number not in job.site
        ]
        if not hidden:
            return
        job_id, number = data.draw(st.sampled_from(hidden))
        self.reappear[job_id, number]()
        self.model[job_id].site[number] = self.model[job_id].vanished.pop(number)

    @step("turn", 2, job=JOB, number=st.integers(1, 2), done=st.integers(0, 3))
    def progress(self, job: str, number: int, done: int) -> None:
        answer = self._agent(job, number, "progress", {"done": done, "of": 3})
        assert answer.status_code == self.model[job].door(number), answer.text

    @step("turn", 1, job=JOB)
    def somebody_else_hands_in(self, job: str) -> None:
        answer = self._agent(job, 1, "manifest", {"version": 1}, token=agent_token(b"other" * 8, job, 1))
        assert answer.status_code == 401

    def _hand_in(self, job_id: str, number: int) -> None:
        """The manifest is taken from whom the job still belongs to."""
        self.objects.put(f"jobs/{job_id}/{number}/results/result.txt", b"result")
        manifest = {
            "version": 1,
            "job": job_id,
            "attempt": number,
            "inputs": [],
            "logs": {"stdout": 0, "stderr": 0},
            "results": [
                {
                    "id": "result",
                    "name": "results/result.txt",
                    "size": 6,
                    "media_type": "text/plain",
                    "sha256": "0" * 64,
                }
            ],
            "error": None,
        }
        answer = self._agent(job_id, number, "manifest", manifest)
        assert answer.status_code == self.model[job_id].door(number), answer.text
        if answer.status_code == 204:
            self.model[job_id].manifests.add(number)

    def _agent(self, job_id: str, number: int, verb: str, body: Any, token: str = "") -> TestResponse:
        token = token or agent_token(SECRET, job_id, number)
        return self.client.post(f"/agent/v1/{verb}", json=body, headers={"Authorization": f"Bearer {token}"})

    # -- watcher, reconciler, time -----------------------------------------------------------------------

    @step("turn", 8, new=st.booleans())
    def look(self, new: bool) -> None:
        if new:
            self.watcher = self._new_watcher()
            for job in self.model.values():
                job.missing = None
        lease = self.store.lease("watcher:local", "watcher", 1000)
        assert lease is not None
        self.watcher.look(lease)
        self.watcher.forget()
        for job in self.model.values():
            job.looked_at(self.now)

    @step("turn", 4, seconds=st.sampled_from([299, 300]))
    def look_twice(self, seconds: int) -> None:
        """The same watcher sees what is missing, and whether it still is much later."""
        self.look(new=False)
        self.now += seconds * 1000
        self.look(new=False)

    @step("turn", 5, step=st.sampled_from([0, 6_000, 26_000, LONG, LONG]))
    def reconcile(self, step: int) -> None:
        self.now += step
        self.lapsed = self.lapsed or step == LONG
        lease = self.store.lease("reconciler", "reconciler", 1000)
        assert lease is not None
        self.reconciler.round(lease)
        for job in self.model.values():
            job.reconciled(self.now, self.lapsed)

    # -- what must hold ------------------------------------------------------------------------------

    def _stored(self, job_id: str) -> Any:
        job = self.store.get(job_id)
        assert job is not None
        return job

    @invariant()
    def store_and_model_agree(self) -> None:
        for job_id, model in getattr(self, "model", {}).items():
            if model.removed:
                assert self.store.get(job_id) is None
                continue
            job = self._stored(job_id)
            found = (
                job.phase.value,
                WORK[job.workload],
                job.attempt,
                job.deleted,
                job.duration,
                job.destruction,
            )
            wanted = (
                model.phase,
                model.work,
                model.attempt,
                model.deleted,
                model.duration,
                model.destruction,
            )
            assert found == wanted
            assert (job.ended is not None) == (model.phase in FINAL)
            assert (job.error is not None) == model.error
            assert bool(job.results) == model.results
            for name, value in model.notes.items():
                assert [p.value for p in job.parameters if p.name == name] == [value]

    @invariant()
    def site_and_model_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        wanted = {(job_id, number) for job_id, job in self.model.items() for number in job.site}
        assert set(self.site.attempts) == wanted
        assert len(set(self.site.runs)) == len(self.site.runs), "an attempt's code was started twice"

    @invariant()
    def the_store_knows_what_the_site_was_given(self) -> None:
        if not hasattr(self, "model"):
            return
        wanted = {(job_id, job.attempt): True for job_id, job in self.model.items() if job.work == "active"}
        unwanted = {(job_id, number): False for job_id, job in self.model.items() for number in job.unwanted}
        assert self.store.given("local") == unwanted | wanted

    @invariant()
    def slots_are_counted(self) -> None:
        if hasattr(self, "model") and isinstance(self.store, RedisStore):
            used = int(self.store.client.hget("uws:u:local", "jobs") or 0)
            held = [job for job in self.model.values() if job.work in ("claimed", "active", "stopping")]
            assert used == len(held)

    def _events_are_legal(self) -> None:
        phases: dict[str, str] = defaultdict(str)
        for event in self.store.events("", 0.01):
            if event.kind != "phase" or not event.phase:
                continue
            assert (phases[event.job_id], event.phase) in EDGES
            phases[event.job_id] = event.phase
        for job_id, job in self.model.items():
            assert phases[job_id] == job.phase or job.deleted


def _check(kind: str, redis_servers: Callable[[str], str], **how: Any) -> None:
    def memory(clock: Callable[[], int]) -> JobStore:
        return MemoryStore(clock)

    def redis(_clock: Callable[[], int]) -> JobStore:
        return RedisStore(redis_servers(kind))

    machine = type("Machine", (System,), {"new_store": staticmethod(memory if kind == "memory" else redis)})
    run_state_machine_as_test(
        machine,
        settings=settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, **how),
    )


@pytest.mark.covers(
    "3:stateful", "3:lost-attempt", "3:uws-transitions", "UWS-24", "UWS-25", "UWS-26", "UWS-29"
)
@pytest.mark.parametrize("kind", ["memory", *PROGRAMS])
def test_server_and_model_agree(kind: str, redis_servers: Callable[[str], str]) -> None:
    """The same examples in every run, so that a failure is the change's."""
    _check(kind, redis_servers, max_examples=150, stateful_step_count=50, derandomize=True, database=None)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.covers("3:stateful")
@pytest.mark.parametrize("kind", ["memory", *PROGRAMS])
def test_server_and_model_agree_for_long(kind: str, redis_servers: Callable[[str], str]) -> None:
    """Other examples in every run."""
    _check(kind, redis_servers, max_examples=1500, stateful_step_count=80)
