"""The whole engine without processes: doubles of store, queue, objects and site, and a clock to move."""

from __future__ import annotations

import json
from typing import Any

from job_templates.catalog import Catalog, load
from runners.fake import FakeRunner, FakeSite
from runners.watcher import Watcher
from runners.worker import Worker
from tests.jobs import NOW, ROOM, bare_spec
from uws_server.domain.caller import Caller
from uws_server.domain.job import Job, Parameter
from uws_server.domain.runspec import RunSpec
from uws_server.queue.base import Work
from uws_server.queue.memory import MemoryQueue
from uws_server.service.changes import Changes
from uws_server.service.door import Door, agent_token
from uws_server.service.jobs import Jobs, Request
from uws_server.service.reconcile import Reconciler
from uws_server.service.uploads import Content
from uws_server.service.waiting import Waiting
from uws_server.storage.links import Links
from uws_server.storage.memory import MemoryStore as MemoryObjects
from uws_server.store.base import JobStore, Lease
from uws_server.store.memory import MemoryStore

SECRET = b"a secret of tests"
NOBODY = Caller()


class Site:
    """A site that runs everything."""

    name = "local"
    kinds = frozenset({"notebook", "command", "container"})
    capacity = ROOM


class Engine:
    """Nothing happens by itself: `work` does what workers were woken for, `look` what the watcher sees."""

    def __init__(self, store: JobStore | None = None, catalog: Catalog | None = None) -> None:
        self.now = NOW
        self.store = store or MemoryStore(self.clock)
        self.queue = MemoryQueue()
        self.objects = MemoryObjects(Links(SECRET, clock=self.clock))
        self.catalog = catalog or load()
        self.site = FakeSite(self.clock)
        self.runner = FakeRunner(self.site)
        self.changes = Changes(self.store, self.queue, self.clock)
        self._count = 0
        self.jobs = Jobs(
            store=self.store,
            changes=self.changes,
            waiting=Waiting(self.store, 100),
            objects=self.objects,
            catalog=self.catalog,
            sites={"local": Site()},
            clock=self.clock,
            new_id=self.new_id,
        )
        self.door = Door(self.store, self.changes, self.objects, SECRET, 10**9, spec=bare_spec)
        self.worker = Worker(
            site="local",
            capacity=ROOM,
            claim_seconds=60,
            store=self.store,
            changes=self.changes,
            catalog=self.catalog,
            runner=self.runner,
            agent_url="http://127.0.0.1/agent/v1",
            secret=SECRET,
            monotonic=lambda: self.now / 1000,
        )
        self.watcher = self.another_watcher("watcher a")
        self.reconciler = Reconciler(
            store=self.store,
            changes=self.changes,
            queue=self.queue,
            objects=self.objects,
            sites=("local",),
            holder="reconciler",
        )

    def another_watcher(self, holder: str) -> Watcher:
        """A watcher of the same site."""
        return Watcher(
            site="local",
            holder=holder,
            store=self.store,
            changes=self.changes,
            objects=self.objects,
            runner=self.runner,
            attempts=2,
            clock=self.clock,
            lost_after=300,
            pending_limit=600,
            monotonic=lambda: self.now / 1000,
        )

    def clock(self) -> int:
        """Milliseconds since 1970 UTC, moved by tests."""
        return self.now

    def new_id(self) -> str:
        """Ids in the order of their making."""
        self._count += 1
        return f"0{self._count:025d}"

    def submit(self, *, run: bool = True, **changes: Any) -> Job:
        """A job of the ``script`` service."""
        uploads = {"script": Content([b"print('hello')\n"], "text/x-python")}
        request = Request((Parameter("script", "hello.py"),), uploads, run=run, **changes)
        return self.jobs.create(NOBODY, "script", request)

    def work(self) -> None:
        """What workers do that were woken."""
        self.queue.run(Work.START, "local", lambda site: self._task(Work.START, site))
        self.queue.run(Work.STOP, "local", lambda site: self._task(Work.STOP, site))

    def _task(self, work: Work, site: str) -> None:
        self.queue.taken(work, site)
        if work is Work.START:
            self.worker.start_waiting()
        else:
            self.worker.stop_due()

    def lease(self, name: str, holder: str) -> Lease:
        """A lease that must be free."""
        lease = self.store.lease(name, holder, 10)
        assert lease is not None
        return lease

    def look(self) -> None:
        """What the watcher does with what the site tells."""
        self.watcher.look(self.lease("watcher:local", "watcher a"))
        self.watcher.forget()

    def reconcile(self) -> None:
        """One round of the reconciler."""
        self.reconciler.round(self.lease("reconciler", "reconciler"))

    def job(self, job_id: str) -> Job:
        """The stored job."""
        job = self.store.get(job_id)
        assert job is not None
        return job

    def hand_in(self, job: Job, results: dict[str, bytes] | None = None, attempt: int | None = None) -> None:
        """What the attempt's agent does at the end."""
        number = attempt or job.attempt
        listed = []
        for name, content in (results or {}).items():
            self.objects.put(f"jobs/{job.id}/{number}/results/{name}", content)
            listed.append(
                {"id": name, "name": f"results/{name}", "size": len(content)}
                | {"media_type": "text/plain", "sha256": "0" * 64}
            )
        manifest = {"version": 1, "job": job.id, "attempt": number, "results": listed}
        self.door.hand_in(
            agent_token(SECRET, job.id, number),
            json.loads(json.dumps(manifest | {"logs": {"stdout": 1, "stderr": 0}})),
        )

    def spec(self, job: Job) -> RunSpec:
        """What the site was given for the job's current attempt."""
        spec = self.site.attempts[job.id, job.attempt].spec
        assert spec is not None
        return spec
