"""The server's own door for the agent's tests, with one job and a store of objects of the test's choice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.integration.agent_door import JOB
from tests.jobs import bare_spec
from uws_server.domain.job import Job, Parameter, Upload, Workload
from uws_server.domain.phase import Phase
from uws_server.domain.runspec import AttemptLimits
from uws_server.queue.memory import MemoryQueue
from uws_server.service import jobs
from uws_server.service.changes import Changes
from uws_server.service.door import Door, agent_token
from uws_server.service.results import Results
from uws_server.service.uploads import parameter_key
from uws_server.storage.base import ObjectStore
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links, now
from uws_server.store.memory import MemoryStore
from uws_server.web.app import create_app
from uws_server.web.parts import Parts

SECRET = b"the secret of a server"
LIMITS = AttemptLimits(log_bytes=10_000, output_bytes=4 * 1024**2, output_files=5)

TABLE = Parameter("table", "table.csv", Upload(4, "0" * 64, "text/csv", "content-of-table"))


class Server:
    """The real application, with a job whose first attempt runs. A result may have ``most`` bytes."""

    def __init__(self, root: Path, objects: ObjectStore | None = None, most: int = 1024**2) -> None:
        links = Links(SECRET)
        self.limits = LIMITS
        self.objects = objects or FileStore(root, links)
        self.jobs = MemoryStore(now)
        self.jobs.schedule_clearance(JOB, now() + 60_000)
        self.job = self.jobs.create(
            Job(
                id=JOB,
                service="test",
                owner="",
                created=now(),
                phase=Phase.EXECUTING,
                parameters=(TABLE,),
                attempt=1,
                workload=Workload.ACTIVE,
                site="local",
                started=now(),
            )
        )
        self.objects.put(parameter_key(JOB, TABLE), b"a,b\n")
        self.changes = Changes(self.jobs, MemoryQueue(), now)
        self.door = Door(
            self.jobs,
            self.changes,
            self.objects,
            SECRET,
            most,
            spec=bare_spec,
            limits=lambda _: self.limits,
        )
        unused = cast("Any", None)
        self.app = create_app(
            Parts(
                jobs=cast(
                    "Any", SimpleNamespace(limits=jobs.RequestLimits())
                ),  # no request for a job is made
                results=Results(self.objects),
                door=self.door,
                catalog=unused,
                store=self.jobs,
                objects=self.objects,
                links=links,
            )
        )
        self.token = agent_token(SECRET, JOB, 1)
