"""A Kubernetes site with jobs by the thousand: what its watcher costs, how fast it launches and tells.

Pods run on nodes that do not exist (kwok), in the cluster of the tests, with its real API server, scheduler
and controllers. The bench plays their agents with the agent's own code, and ends a pod by an annotation.
Beside the server's worker a bare client makes Jobs of the same shape in turns; beside its watcher a raw watch
notes when the event comes that decides about a job.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import redis

from benchmarks.parts import Server, children_with, memory, ours, until
from runners.agent.attempt_dir import Access
from runners.agent.deadline import Deadline
from runners.agent.door import Door
from runners.kubernetes import manifest
from runners.kubernetes.cluster import Cluster, Document
from tests.cluster import lifecycle
from tests.cluster.fake_nodes import ENDS, POD_ON_FAKE_NODES, add_fake_nodes, remove_fake_nodes
from tests.cluster.layout import ROOT
from uws_server.domain.wire import PATH
from uws_server.service.door import agent_token
from uws_server.store import keys

_A_SECOND = 50  # pods that end
_BATCH = 200  # Jobs that worker and bare client make in turns
_TURNS = 10  # of both; what is launched between them is not counted
_ROOM = 900  # pods on a fake node
_STILL = 70.0  # s; a list of everything comes each minute
_TICKS = os.sysconf("SC_CLK_TCK")
_TEMPLATE = """
name: task
title: A pod on a node that does not exist
description: For the bench.
kind: container
image: localhost/busybox:1
command: ["true"]
resources:
  cpu: {default: 0.1}
  memory: {default: 32MiB}
  disk: {default: 16MiB}
  time: {default: 1d}
  retention: {default: 1d}
outputs:
  - id: result
    glob: "**"
"""


def measure(where: Path, jobs: int) -> dict[str, Any]:
    """Start, hold and end so many jobs at once. Times in seconds unless a name says ms."""
    cluster = lifecycle.up(str(ROOT), until_end_of=os.getpid())
    templates = where / "templates"
    templates.mkdir()
    (templates / "task.yaml").write_text(_TEMPLATE)
    add_fake_nodes(cluster, jobs // _ROOM + 2)
    try:
        with cluster.namespace() as namespace:
            settings = _settings(cluster.kubeconfig, namespace, templates, jobs)
            with ours(where / "kubernetes", **settings) as server:
                site = _Site(server, where / "kubernetes", str(cluster.kubeconfig), namespace)
                return _measured(site, jobs)
    finally:
        remove_fake_nodes(cluster)


def _settings(kubeconfig: Path, namespace: str, templates: Path, jobs: int) -> dict[str, str]:
    site = {
        "runner": "kubernetes",
        "jobs": jobs,
        "kubernetes": {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "agent_image": "localhost/agent:1",
            "agent_url": "http://agents.invalid",  # no pod runs that would ask there
            "node_selector": POD_ON_FAKE_NODES["nodeSelector"],
            "tolerations": POD_ON_FAKE_NODES["tolerations"],
        },
    }
    return {
        "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(templates)]),
        "UWS_SITES": json.dumps({"cluster": site}),
    }


class _Site:
    """The server under measurement, its processes, and ways of our own into cluster and job store."""

    def __init__(self, server: Server, data: Path, kubeconfig: str, namespace: str) -> None:
        self.server = server
        self.api = Cluster(kubeconfig, connections=16)
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.secret = (data / "secret").read_bytes().strip()
        self.redis = redis.Redis(unix_socket_path=str(data / "redis" / "socket"), decode_responses=True)
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"

    def process(self, words: str) -> int:
        """The process of the server with these words in its command line."""
        until(lambda: children_with(self.server.pid, words), f"a process {words}")
        (pid,) = children_with(self.server.pid, words)
        return pid

    def submit(self) -> str:
        """Submit a job; its id."""
        body = urlencode({"PHASE": "RUN"}).encode()
        with urllib.request.urlopen(f"{self.server.url}/task/async", body, timeout=60) as answer:
            return str(answer.url).rpartition("/")[2]

    def list(self, path: str, selector: str) -> list[Document]:
        """All objects with these labels."""
        return [item for page in self.api.pages(path, labelSelector=selector) for item in page["items"]]

    def door(self, job: str) -> Door:
        """What the agent of a job's first attempt has."""
        access = Access(f"{self.server.url}{PATH}", agent_token(self.secret, job, 1))
        return Door(access, Deadline())


_OURS = f"app.kubernetes.io/managed-by={manifest.MANAGED_BY}"


def _measured(site: _Site, jobs: int) -> dict[str, Any]:
    launched, bare = _launch(site, jobs)
    _settle(site, jobs)
    pods = _running(site)
    with ThreadPoolExecutor(8) as agents:
        list(agents.map(lambda job: _begin(site, job, pods[job]), pods))
    watcher = site.process("uws_server.cli watch")
    still = _cpu(watcher, lambda: time.sleep(_STILL))
    held = memory([watcher])
    late, rate, ending = _end(site, pods, watcher)
    return {
        "jobs": jobs,
        "watcher_mib": held / 1024**2,
        "watcher_cores_still": still,
        "watcher_cores_ending": ending,
        "launches_per_s": launched,
        "bare_launches_per_s": bare,
        "launch_ratio": launched / bare,
        "ended_per_s": rate,
        "phase_p50_ms": statistics.median(late),
        "phase_p99_ms": sorted(late)[int(0.99 * len(late))],
    }


def _launch(site: _Site, jobs: int) -> tuple[float, float]:
    """Jobs a second of the server's one worker, and of a bare client with one connection, in turns.

    Each begins when the cluster has nothing left to do of what was made before. The very first Job is not
    counted: it waits until the worker's process has started.
    """
    worker = site.process("--queue start")
    site.submit()
    _await_launches(site, 1)
    ours: list[float] = []
    bare: list[float] = []
    sizes = [min(_BATCH, jobs - made) for made in range(1, jobs, _BATCH)]
    made = 1
    for number, batch in enumerate(sizes):
        counts = number % -(-len(sizes) // _TURNS) == 0
        with _paused(worker), ThreadPoolExecutor(4) as submitters:
            list(submitters.map(lambda _: site.submit(), range(batch)))
            if counts:
                _settle(site, made)
        began = time.monotonic()
        made += batch
        _await_launches(site, made)
        if counts:
            ours.append((time.monotonic() - began) / batch)
            _settle(site, made)
            bare.append(_launch_bare(site, batch))
    return 1 / statistics.mean(ours), 1 / statistics.mean(bare)


def _launch_bare(site: _Site, batch: int) -> float:
    """Seconds that a bare client takes for one Job."""
    shape = site.api.call("GET", site.jobs, limit="1", labelSelector=_OURS)["items"][0]
    documents = [_bare(shape, site.namespace, number) for number in range(batch)]
    began = time.monotonic()
    for document in documents:
        site.api.call("POST", site.jobs, document)
    took = time.monotonic() - began
    with ThreadPoolExecutor(4) as removers:
        list(removers.map(lambda document: _remove(site, document), documents))
    return took / batch


def _settle(site: _Site, jobs: int) -> None:
    """Wait until there are so many Jobs, each with a pod that runs, and nothing else is left."""
    pending = {"limit": "1", "fieldSelector": "status.phase=Pending"}

    def settled() -> bool:
        time.sleep(0.2)
        counted = all(_count(site, path) == jobs for path in (site.jobs, site.pods))
        return counted and not site.api.call("GET", site.pods, **pending)["items"]

    until(settled, f"pods of {jobs} Jobs and of no others", 900)


def _count(site: _Site, path: str) -> int:
    """How many objects there are."""
    page = site.api.call("GET", path, limit="1")
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)


def _await_launches(site: _Site, count: int) -> None:
    """Wait until so many jobs are recorded as launched: to ask the API server for it would hold it up."""

    def there() -> bool:
        time.sleep(0.01)
        return int(site.redis.zcard(keys.given("cluster"))) >= count

    until(there, f"{count} launches", 300)


def _bare(shape: Document, namespace: str, number: int) -> Document:
    """A Job of the same shape that our server does not take for its own."""
    spec = json.loads(json.dumps(shape["spec"]))
    for key in ("selector", "manualSelector"):
        spec.pop(key, None)
    labels = {"bench": "bare"}
    spec["template"]["metadata"] = {"labels": labels}
    meta = {"name": f"bare-{number}", "namespace": namespace, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def _remove(site: _Site, job: Document) -> None:
    site.api.call("DELETE", f"{site.jobs}/{job['metadata']['name']}", {"propagationPolicy": "Background"})


def _running(site: _Site) -> dict[str, Document]:
    """Job id → its pod, of all that run."""
    pods = site.list(site.pods, _OURS)
    return {
        pod["metadata"]["labels"][manifest.JOB]: pod
        for pod in pods
        if pod["status"].get("phase") == "Running"
    }


def _begin(site: _Site, job: str, pod: Document) -> None:
    door = site.door(job)
    door.begin(pod["metadata"]["uid"])
    door.started(time.time_ns() // 1_000_000)


def _end(site: _Site, pods: dict[str, Document], watcher: int) -> tuple[list[float], float, float]:
    """End all pods at a steady rate, as far as the cluster keeps up with it.

    ms from each deciding event to its phase; pods that ended a second; the watcher's cores.
    """
    decided: dict[str, float] = {}
    phases: dict[str, float] = {}
    stop = threading.Event()
    seers = [
        threading.Thread(target=_see_pods, args=(site, decided, stop)),
        threading.Thread(target=_see_phases, args=(site, phases, stop)),
    ]
    for seer in seers:
        seer.start()

    def end(job: str) -> None:
        name = pods[job]["metadata"]["name"]
        manifest_of = {"job": job, "attempt": 1, "results": [], "logs": {"stdout": 0, "stderr": 0}}
        site.door(job).manifest(manifest_of)
        note = {"metadata": {"annotations": {ENDS: "0"}}}
        kind = "application/merge-patch+json"
        site.api.call("PATCH", f"{site.pods}/{name}", note, content_type=kind)

    def all_of_them() -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(8) as agents:
            for number, job in enumerate(pods):
                time.sleep(max(0.0, began + number / _A_SECOND - time.monotonic()))
                agents.submit(end, job)
        until(lambda: len(phases) >= len(pods), "the end of all jobs", 600)

    try:
        cores = _cpu(watcher, all_of_them)
    finally:
        stop.set()
        for seer in seers:
            seer.join()
    rate = len(decided) / (max(decided.values()) - min(decided.values()))
    return [1000 * (phases[job] - decided[job]) for job in pods], rate, cores


def _see_pods(site: _Site, decided: dict[str, float], stop: threading.Event) -> None:
    api = Cluster(site.kubeconfig)
    version = api.call("GET", site.pods, limit="1")["metadata"]["resourceVersion"]
    while not stop.is_set():
        for kind, pod in api.watch(site.pods, version, 5, labelSelector=_OURS):
            version = pod["metadata"]["resourceVersion"]
            if kind == "MODIFIED" and pod["status"].get("phase") == "Succeeded":
                decided.setdefault(pod["metadata"]["labels"][manifest.JOB], time.time())


def _see_phases(site: _Site, phases: dict[str, float], stop: threading.Event) -> None:
    after = "$"
    while not stop.is_set():
        answer: Any = site.redis.xread({keys.EVENTS: after}, count=1000, block=1000)
        for _, entries in answer:
            for after, event in entries:
                if event["p"] == "COMPLETED":
                    phases.setdefault(event["j"], int(after.partition("-")[0]) / 1000)


def _cpu(pid: int, during: Callable[[], object]) -> float:
    """Processors that a process used meanwhile."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    before, began = used(), time.monotonic()
    during()
    return (used() - before) / (time.monotonic() - began)


@contextmanager
def _paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
