"""A namespace of the test cluster as a site for tests of the runner: real pods with real agents, and a door.

The door gives what agents ask for without a server's records. It counts how often the code of each attempt
starts, by the word of the code itself.
"""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

from runners.base import Observation, State, Unreachable
from runners.kubernetes.cluster import ApiRefusal
from runners.kubernetes.cluster import Cluster as Api
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.runner import KubernetesRunner
from tests.cluster.cluster import Cluster
from tests.waiting import until
from uws_server.domain.runspec import AttemptLimits, Resources, RunSpec
from uws_server.domain.wire import BEGIN, LINKS, MANIFEST, OWN_WORD, PATH, PROGRESS, STARTED
from uws_server.storage.file import FileStore
from uws_server.storage.links import Links
from uws_server.web.storage import storage_blueprint

SMALL = Resources(cpu_milli=20, memory_bytes=32 * 1024**2, disk_bytes=16 * 1024**2)
QUICK = AttemptLimits(grace=2, log_bytes=1024**2)
_OURS = dict([OWN_WORD])
_numbers = itertools.count(1)
_DOES = {"succeed": "true", "fail": "exit 3", "stay": "while true; do sleep 0.1; done"}


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object, **__: object) -> None:
        """Tests tell what went wrong."""


class Door:
    """What agents ask, for any job that it was told of."""

    def __init__(self, root: Path) -> None:
        self.specs: dict[str, RunSpec] = {}
        self.starts: Counter[tuple[str, int]] = Counter()
        self._places: dict[tuple[str, int], str] = {}
        self._links = Links(b"k" * 32)
        self._store = FileStore(root, self._links)
        self._lock = threading.Lock()

    def app(self) -> Flask:
        """The door over HTTP."""
        app = Flask("door")
        app.register_blueprint(storage_blueprint(self._store, self._links))
        app.post(f"{PATH}/{BEGIN}")(self._begin)
        app.post(f"{PATH}/{LINKS}")(self._buy)
        for name in (STARTED, PROGRESS, MANIFEST):
            app.add_url_rule(f"{PATH}/{name}", name, lambda: Response(status=204), methods=["POST"])
        app.get("/started/<job>/<int:attempt>")(self._count)
        return app

    def _count(self, job: str, attempt: int) -> Response:
        with self._lock:
            self.starts[job, attempt] += 1
        return Response(status=204)

    def _begin(self) -> Response:
        job, attempt = self._attempt()
        place = json.loads(request.data)["place"]
        with self._lock:
            first = self._places.setdefault((job, attempt), place)
        if first != place:
            return Response("It has begun elsewhere.\n", 403, _OURS)
        return jsonify({"spec": replace(self.specs[job], attempt=attempt).to_json()})

    def _buy(self) -> Response:
        job, attempt = self._attempt()
        links = [
            {
                "url": self._links.sign("PUT", f"jobs/{job}/{attempt}/{one['name']}", 60, one["size"]),
                "headers": {},
            }
            for one in json.loads(request.data)["objects"]
        ]
        return jsonify({"links": links})

    def _attempt(self) -> tuple[str, int]:
        job, _, attempt = request.headers["Authorization"].removeprefix("Bearer ").partition(".")
        return job, int(attempt)


class KubernetesSite:
    """One namespace, its runner, and a door for its agents."""

    def __init__(self, cluster: Cluster, namespace: str, url: str, door: Door) -> None:
        self.url = f"{url}{PATH}"
        self.door = door
        self._settings = PodSettings(
            namespace=namespace,
            instance="tests",
            agent_image="localhost/agent:1",
            notebook_image="",
            agent_cpu_milli=20,
            agent_memory_bytes=64 * 1024**2,
        )
        self._kubeconfig = str(cluster.kubeconfig)
        self._told = url
        self.api = Api(self._kubeconfig)
        self._runners: list[KubernetesRunner] = []
        self.runner = self.another()

    def another(self) -> KubernetesRunner:
        """What a server that is started again would make."""
        runner = KubernetesRunner(Api(self._kubeconfig), self._settings)
        self._runners.append(runner)
        return runner

    def job(self, does: str) -> RunSpec:
        """A run spec of a small shell script."""
        job_id = f"0{next(_numbers):013d}{secrets.token_hex(6)}"
        count = f"wget -q -O /dev/null {self._told}/started/$UWS_JOB_ID/$UWS_ATTEMPT || exit 99"
        command = ("sh", "-c", f"{count}; {_DOES[does]}")
        spec = RunSpec(job_id, 1, "test", "container", command, limits=QUICK, resources=SMALL)
        self.door.specs[job_id] = replace(spec, image="localhost/busybox:1")
        return self.door.specs[job_id]

    def impossible(self) -> RunSpec:
        """A run spec that neither names an image nor may use the site's."""
        return replace(self.job("succeed"), image="")

    def token(self, spec: RunSpec) -> str:
        """What the attempt's agent says at the door."""
        return f"{spec.job_id}.{spec.attempt}"

    def reach(self, spec: RunSpec, *states: State) -> Observation:
        """See the attempt to one of these states."""

        def look() -> Observation | None:
            with suppress(Unreachable):
                for seen in self.runner.observe():
                    if (seen.job_id, seen.attempt) == (spec.job_id, spec.attempt) and seen.state in states:
                        return seen
            return None

        return until(look, lambda: f"{states}: {list(self.runner.observe())}")

    def lose(self, spec: RunSpec) -> None:
        """Take the pod away at once."""
        until(lambda: self.runs(spec), "the start of its code")
        for pod in self.items("pods"):
            if pod["metadata"]["labels"]["uws-server/job"] == spec.job_id:
                options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
                self.api.call("DELETE", f"{self.path('pods')}/{pod['metadata']['name']}", options)

    def runs(self, spec: RunSpec) -> int:
        """How often its code was started."""
        return self.door.starts[spec.job_id, spec.attempt]

    def path(self, kind: str) -> str:
        """Where the API server has Jobs or pods."""
        group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return f"{group}/namespaces/{self._settings.namespace}/{kind}"

    def items(self, kind: str) -> list[dict[str, Any]]:
        """All Jobs or pods."""
        found: list[dict[str, Any]] = self.api.call("GET", self.path(kind))["items"]
        return found

    def left(self) -> list[str]:
        """The names of all Jobs and pods."""
        return [item["metadata"]["name"] for item in [*self.items("jobs"), *self.items("pods")]]

    def close(self) -> None:
        """Stop and forget all, and see that nothing is left."""
        for seen in self.runner.observe():
            self.runner.stop(seen.job_id, seen.attempt)

        def cleared() -> bool:
            for seen in self.runner.observe():
                with suppress(ValueError, ApiRefusal):  # not yet
                    self.runner.forget(seen.job_id, seen.attempt)
            return not self.left()

        until(cleared, lambda: f"the end of {self.left()}")
        for runner in self._runners:
            runner.close()


@contextmanager
def kubernetes_site(cluster: Cluster, namespace: str, root: Path) -> Iterator[KubernetesSite]:
    """A site in a namespace, that is closed and found clean at the end."""
    door = Door(root)
    server = make_server(cluster.layout.host_ip, 0, door.app(), threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        site = KubernetesSite(
            cluster, namespace, f"http://{cluster.layout.host_ip}:{server.server_port}", door
        )
        yield site
        site.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
