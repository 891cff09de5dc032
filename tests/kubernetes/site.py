"""A Kubernetes site under a running `up`: jobs are given, watched and found cleared away."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runners.kubernetes.cluster import Cluster as Api
from tests.cluster.cluster import Cluster
from tests.cluster.node import Failed
from tests.kubernetes.sources import Sources
from tests.up_jobs import UpJobs
from tests.up_process import UpProcess
from tests.waiting import PATIENCE, until
from uws_server.service.door import agent_token

Document = dict[str, Any]

OWN = frozenset({"stdout", "stderr", "manifest"})
"""The results that every job has."""

_KINDS = ("/apis/batch/v1/{}/jobs", "/api/v1/{}/pods", "/api/v1/{}/secrets", "/api/v1/{}/configmaps")


class Site:
    """One namespace of the cluster, an `up` that runs jobs there, and what jobs reach on this machine."""

    def __init__(self, up: UpProcess, cluster: Cluster, namespace: str, sources: Sources) -> None:
        self.up = up
        self.jobs = UpJobs(up)
        self.cluster = cluster
        self.namespace = namespace
        self.sources = sources
        self.api = Api(str(cluster.kubeconfig))

    # ---- giving jobs ---------------------------------------------------------------------------------

    def shell(self, script: str, **words: Any) -> str:
        """Submit a shell script that first counts its start; the job's URL."""
        count = f"wget -q -O /dev/null {self.sources.url}/started/$UWS_JOB_ID/$UWS_ATTEMPT || exit 99\n"
        return self.run(["sh", "-c", count + script], **words)

    def run(self, command: list[str], **words: Any) -> str:
        """Submit a command; the job's URL. A word may have several values."""
        words = {"PHASE": "RUN", "command": json.dumps(command), **words}
        answer = self.jobs.ask("/task/async", urlencode(words, doseq=True).encode())
        assert answer.status == 200, answer.text
        return answer.url

    def abort(self, job: str) -> None:
        """Abort a job; it is ABORTED at once."""
        assert self.jobs.ask(f"{job}/phase", b"PHASE=ABORT").status == 200
        assert self.look(job)["phase"] == "ABORTED"

    def delete(self, job: str) -> None:
        """Delete a job."""
        assert self.jobs.ask(job, b"ACTION=DELETE").status == 200

    # ---- watching them -------------------------------------------------------------------------------

    def look(self, job: str) -> Document:
        """The job as JSON."""
        return self.jobs.look(job)

    def reach(self, job: str, phase: str) -> Document:
        """The job once it has this phase."""
        return self.until(job, lambda seen: seen["phase"] == phase, phase)

    def reason(self, job: str, words: str) -> Document:
        """The job once its job info says so."""
        return self.until(job, lambda seen: words in (seen["reason"] or ""), words)

    def ended(self, job: str, phase: str, seconds: float = PATIENCE) -> Document:
        """The job once it has ended for good, and nothing of it runs; its token is in nothing it stored."""
        seen = self.until(
            job, lambda seen: seen["phase"] in _FINAL and not seen["finalising"], phase, seconds
        )
        assert seen["phase"] == phase, (seen["phase"], seen["errorSummary"], seen["reason"])
        self.keeps_its_secret(job)
        return seen

    def until(
        self, job: str, holds: Callable[[Document], bool], what: str, seconds: float = PATIENCE
    ) -> Document:
        """The job once something holds of it."""

        def look() -> Document | None:
            seen = self.look(job)
            return seen if holds(seen) else None

        return until(look, lambda: f"{what}: {self.look(job)}", seconds)

    def result(self, job: str, name: str) -> bytes:
        """The content of a result."""
        return self.jobs.result(job, name)

    def starts(self, job: str) -> dict[int, int]:
        """How often the code of each attempt started."""
        name = id_of(job)
        return {attempt: n for (one, attempt), n in self.sources.starts.items() if one == name}

    # ---- what is in the cluster ----------------------------------------------------------------------

    def pods(self, job: str) -> list[Document]:
        """The pods of a job, of all attempts."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found: list[Document] = self.api.call("GET", path, labelSelector=f"uws-server/job={id_of(job)}")[
            "items"
        ]
        return found

    def pod(self, job: str, holds: Callable[[Document], bool] = bool) -> Document:
        """The one pod of a job, once something holds of it."""

        def look() -> Document | None:
            pods = self.pods(job)
            return pods[-1] if pods and holds(pods[-1]) else None

        return until(look, lambda: f"such a pod of {job}: {[one['status'] for one in self.pods(job)]}")

    def remove(self, kind: str, name: str) -> None:
        """Delete a pod or Job by hand."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self.api.call("DELETE", self.path(kind, name), options)

    def path(self, kind: str, name: str = "") -> str:
        """Where the API server has `pods` or `jobs`."""
        group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return f"{group}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def send(self, job: str, container: str, name: str) -> None:
        """Send all processes of a job's container a signal, such as ``KILL``."""
        pids = self.processes(job, container)
        assert pids
        self.cluster.node(1).inside("kill", f"-{name}", *map(str, pids))

    def processes(self, job: str, container: str) -> list[int]:
        """The processes of a container, as its node numbers them."""

        def look() -> list[int]:
            # The pod's status may name the container of before a restart still, or none yet.
            with suppress(Failed, KeyError):
                return self._processes(job, container)
            return []

        return until(look, f"container {container} on its node")

    def _processes(self, job: str, container: str) -> list[int]:
        (identity,) = [one["containerID"] for one in statuses(self.pods(job)[-1], container)]
        name = identity.partition("://")[2]
        node = self.cluster.node(1)
        rows = node.inside("ctr", "--address", str(node.containerd), "-n", "k8s.io", "tasks", "ps", name)
        return [int(row.split()[0]) for row in rows.splitlines()[1:]]

    # ---- what is left --------------------------------------------------------------------------------

    @property
    def objects(self) -> Path:
        """Where the object store has its files."""
        return self.up.data / "objects"

    def stored(self, job: str) -> list[Path]:
        """All objects of a job."""
        # `walk` passes over directories that go meanwhile; `rglob` of Python 3.11 does not.
        walked = os.walk(self.objects / "jobs" / id_of(job))
        return [path for top, _, names in walked for name in names if (path := Path(top, name)).is_file()]

    def token(self, job: str, attempt: int = 1) -> bytes:
        """The token of one attempt."""
        secret = (self.up.data / "secret").read_bytes()
        return agent_token(secret, id_of(job), attempt).encode()

    def keeps_its_secret(self, job: str) -> None:
        """No object of the job and no word about it has a token of it."""
        head = id_of(job).encode() + b"."
        mine = [self.token(job, attempt).removeprefix(head) for attempt in (1, 2, 3)]
        for path in self.stored(job):
            content = path.read_bytes()
            assert not any(token in content for token in mine), path
        shown = (
            self.jobs.ask(job).body + json.dumps(self.look(job)).encode() + self.jobs.ask(f"{job}/error").body
        )
        assert not any(token in shown for token in mine)

    def in_cluster(self, job: str) -> list[str]:
        """Everything in the cluster that belongs to a job."""
        name = id_of(job)
        found = []
        for kind in _KINDS:
            path = kind.format(f"namespaces/{self.namespace}")
            for item in self.api.call("GET", path)["items"]:
                meta = item["metadata"]
                if name in meta["name"] or name in (meta.get("labels") or {}).values():
                    found.append(f"{kind} {meta['name']}")
        return found

    def clear(self, job: str, starts: dict[int, int] | None = None) -> None:
        """See that nothing is left of an ended job in the cluster, delete it, and see that nothing is left.

        :param starts: how often the code of each attempt has started.
        """
        until(lambda: not self.in_cluster(job), lambda: f"the end of {self.in_cluster(job)}")
        assert self.starts(job) == ({1: 1} if starts is None else starts)
        if self.jobs.ask(job).status != 404:
            self.delete(job)
        assert self.jobs.ask(job).status == 404
        until(lambda: not self.stored(job), f"the end of the objects of {job}")


_FINAL = frozenset({"COMPLETED", "ERROR", "ABORTED"})


def statuses(pod: Document, container: str) -> list[Document]:
    """What a pod's status says of one of its containers: nothing, or one entry."""
    status = pod["status"]
    every = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return [one for one in every if one["name"] == container]


def container_is(state: str, container: str, restarts: int = 0) -> Callable[[Document], bool]:
    """Whether a pod's container is `running` or `terminated`, after so many restarts: for `Site.pod`."""
    return lambda pod: any(
        state in one["state"] and one["restartCount"] == restarts for one in statuses(pod, container)
    )


def id_of(job: str) -> str:
    """A job's id, of its URL."""
    return job.rpartition("/")[2]
