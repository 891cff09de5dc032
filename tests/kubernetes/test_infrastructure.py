"""What our own parts and the cluster's cost when they die, stop or come late: nothing, or one attempt."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.cluster import images, lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.layout import ROOT
from tests.cluster.node import Node
from tests.kubernetes.site import Site, container_is, id_of
from tests.kubernetes.sources import Sources
from tests.up_process import UpProcess, children, lives
from tests.waiting import PATIENCE, until

CLAIM, LOST = 4, 15
"""Seconds of a worker's claim, and of the site's patience, in these tests."""

STOP, GO, KILL = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL


class Gates(Sources):
    """Sources with gates: ``/open/NAME`` is there once NAME is in ``opened``."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.opened: set[str] = set()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """Answer one request, by its path."""
        _, what, *words = to.path.split("/")
        if what == "open":
            to.send_response(200 if words[0] in self.opened else 404)
            to.send_header("Content-Length", "0")
            to.end_headers()
        else:
            super().answer(to)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


class Machinery(Site):
    """A site whose server's processes can be killed, paused, and begun again on the same data."""

    def __init__(self, cluster: Cluster, namespace: str, gates: Gates, data: Path) -> None:
        self.gates = gates
        self.environment = {
            "UWS_WEB__HOST": cluster.layout.host_ip,
            "UWS_AUTH__ANONYMOUS": "anywhere",
            "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(Path(__file__).parent / "templates")]),
            "UWS_JOBS__CLAIM_SECONDS": str(CLAIM),
            "UWS_SITES": json.dumps(
                {
                    "cluster": {
                        "runner": "kubernetes",
                        "relist_seconds": 2,
                        "lost_after": LOST,
                        "kubernetes": {
                            "kubeconfig": str(cluster.kubeconfig),
                            "namespace": namespace,
                            "agent_image": "localhost/agent:1",
                        },
                    }
                }
            ),
        }
        self.port = free_port(cluster.layout.host_ip)
        self.data = data
        super().__init__(self.begin(), cluster, namespace, gates)

    def begin(self) -> UpProcess:
        """All processes of `up`, at the address that agents know."""
        up = UpProcess(self.data, "--port", str(self.port), environment=self.environment)
        return up.wait_until_ready()

    @contextmanager
    def besides(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process beside those of `up`, in the same environment."""
        given = Path(f"/proc/{self.up.roles()['watch']}/environ").read_bytes().decode()
        log = (self.data.parent / "besides.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=dict(entry.split("=", 1) for entry in given.split("\0") if entry),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def kill(self, role: str) -> None:
        """Kill a process of `up`, and wait for the next."""
        pid = self.up.roles()[role]
        os.kill(pid, KILL)
        until(lambda: self.up.roles().get(role, pid) != pid, f"another {role}")

    @contextmanager
    def paused(self, *roles: str) -> Iterator[None]:
        """Processes of `up` that do nothing for a while, with their children."""
        pids = [pid for role in roles for pid in _family(self.up.roles()[role])]
        for pid in pids:
            os.kill(pid, STOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with suppress(ProcessLookupError):  # it may have been killed meanwhile
                    os.kill(pid, GO)

    def api_server(self, up: bool) -> None:
        """Stop the API server, or start it and wait for its answer."""
        node = self.cluster.node(1)
        if not up:
            node.stop("kube-apiserver")
            return
        node.restart("kube-apiserver")
        until(lambda: self.cluster.answers("get", "--raw=/readyz"), "the API server")

    def runs(self, job: str, attempt: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until the code of an attempt has started."""
        until(lambda: attempt in self.starts(job), f"the start of attempt {attempt} of {job}", seconds)

    def completed(self, job: str, attempts: int = 1) -> None:
        """It has done its work, in so many attempts of one start each, and nothing is left of it."""
        seen = self.ended(job, "COMPLETED")
        assert seen["attempt"] == attempts, (seen, self.up.log.read_text(errors="replace")[-20_000:])
        assert self.result(job, "stdout") == b"done\n"
        self.clear(job, dict.fromkeys(range(1, attempts + 1), 1))

    def held(self, **words: str) -> str:
        """A job that runs until it is let go."""
        wait = f"while ! wget -q -O /dev/null {self.gates.url}/open/$UWS_JOB_ID; do sleep 0.2; done"
        return self.shell(f"{wait}; echo done", **words)

    def let_go(self, job: str) -> None:
        """Let the code of a job end."""
        self.gates.opened.add(id_of(job))


def _family(pid: int) -> list[int]:
    return [pid, *(one for child in children(pid) for one in _family(child))]


@pytest.fixture(scope="module")
def gates(cluster: Cluster) -> Iterator[Gates]:
    """What jobs reach on this machine."""
    gates = Gates(cluster.layout.host_ip)
    thread = threading.Thread(target=gates.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield gates
    gates.server.shutdown()
    thread.join()
    gates.server.server_close()


@pytest.fixture(scope="module")
def machinery(
    cluster: Cluster, gates: Gates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machinery]:
    cluster.import_image(images.agent_image())
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        made = Machinery(cluster, namespace, gates, tmp_path_factory.mktemp("machinery") / "data")
        try:
            yield made
        finally:
            if made.up.process.poll() is None:
                made.up.end()


@pytest.fixture
def site(machinery: Machinery) -> Iterator[Machinery]:
    """With nothing left in its namespace, whatever the test did."""
    yield machinery
    left: list[str] = []

    def empty() -> bool:
        left[:] = [
            item["metadata"]["name"]
            for kind in ("jobs", "pods")
            for item in machinery.api.call("GET", machinery.path(kind))["items"]
        ]
        return not left

    until(empty, "an empty namespace")


# ---- our own processes -------------------------------------------------------------------------------------


@pytest.mark.covers("4:fault-watcher")
def test_a_watcher_is_killed_and_its_job_ends_meanwhile(site: Machinery) -> None:
    job = site.held()
    site.runs(job)
    site.let_go(job)
    site.kill("watch")
    site.completed(job)


@pytest.mark.covers("4:fault-watcher", "4:watcher-standby")
def test_a_paused_watcher_that_wakes_up_beside_another_does_no_harm(site: Machinery) -> None:
    first, second = site.held(), site.held()
    site.runs(first)
    site.runs(second)
    standby = ("uws_server.cli", "watch", "--site", "cluster", "--holder", "standby")
    with site.besides(*standby):
        with site.paused("watch"):
            site.let_go(first)
            site.ended(first, "COMPLETED")
            site.abort(second)
            site.ended(second, "ABORTED")
        third = site.held()  # both are awake
        site.runs(third)
        site.let_go(third)
        site.completed(third)
        site.completed(first)
        site.clear(second)
    last = site.held()  # and the standby is gone
    site.let_go(last)
    site.completed(last)


@contextmanager
def armed_worker(site: Machinery, point: str, action: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that dies or stops at a point, while the worker of `up` is paused."""
    words = ("tests.crash.process", point, action, "worker", "--site", "cluster", "--queue", "start")
    with site.besides(*words) as worker:
        yield worker


def stopped(pid: int) -> bool:
    """Whether a process is paused."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.covers("4:fault-worker")
def test_a_worker_is_killed_after_it_made_the_job_and_before_it_said_so(site: Machinery) -> None:
    with site.paused("start"), armed_worker(site, "after post", "kill") as worker:
        job = site.held()
        until(lambda: worker.poll() is not None, "the worker's end")
        site.runs(job)
    site.let_go(job)
    site.completed(job)


@pytest.mark.covers("4:fault-worker", "4:begins-once")
def test_a_worker_that_wakes_when_its_job_is_over_makes_nothing_run(site: Machinery) -> None:
    """It has asked whether it may, and was paused just before it made the Job."""
    with armed_worker(site, "before post", "pause") as worker:
        with site.paused("start"):
            job = site.held()
            until(lambda: stopped(worker.pid), "the pause")
        site.runs(job)
        site.let_go(job)
        site.ended(job, "COMPLETED")
        until(lambda: not site.in_cluster(job), "the attempt is forgotten")
        os.kill(worker.pid, GO)
        until(lambda: site.in_cluster(job), "the Job that came late")
        site.completed(job)


@pytest.mark.covers("4:fault-web")
def test_web_is_away_when_an_agent_begins(site: Machinery) -> None:
    job = site.held()
    with site.paused("web"):
        site.pod(job, container_is("running", "main"))  # it waits for the agent's word
        assert not site.starts(job)
    site.runs(job)
    site.let_go(job)
    site.completed(job)


@pytest.mark.covers("4:manifest-proves", "4:fault-watcher")
@pytest.mark.long
def test_a_job_whose_pod_went_while_nobody_watched_has_succeeded_all_the_same(site: Machinery) -> None:
    job = site.held()
    site.runs(job)
    with site.paused("watch"):
        site.let_go(job)
        pod = site.pod(job, lambda pod: pod["status"]["phase"] == "Succeeded")
        until(lambda: complete(site, job), "the end of the Job")
        site.remove("pods", pod["metadata"]["name"])
        until(lambda: not site.pods(job), "the end of the pod")
        site.kill("watch")
    site.completed(job)


@pytest.mark.covers("4:orphans", "4:fault-job", "4:adoption")
@pytest.mark.long
@pytest.mark.parametrize("wanted", [True, False])
def test_a_pod_that_was_left_without_its_job_while_nobody_watched_is_seen_to_its_end(
    site: Machinery, wanted: bool
) -> None:
    job = site.held()
    site.runs(job)
    site.reach(job, "EXECUTING")
    with site.paused("watch"):
        orphan(site, job)
        if not wanted:
            site.abort(job)
        site.kill("watch")
    if wanted:
        site.let_go(job)
        site.completed(job)
    else:
        site.ended(job, "ABORTED")
        site.clear(job)


def orphan(site: Machinery, job: str) -> None:
    """Delete a job's Job and leave its pod."""
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"}
    site.api.call("DELETE", site.path("jobs", f"uws-{id_of(job)}-1"), options)
    until(lambda: "ownerReferences" not in site.pods(job)[-1]["metadata"], "the pod has no owner")


def complete(site: Machinery, job: str) -> bool:
    """Whether the cluster says that a job's Job has run to its end."""
    jobs = site.api.call("GET", site.path("jobs"), labelSelector=f"uws-server/job={id_of(job)}")["items"]
    return any(one["type"] == "Complete" for item in jobs for one in item["status"].get("conditions", []))


@pytest.mark.covers("4:fault-web")
@pytest.mark.long
def test_web_is_killed_while_results_are_stored(site: Machinery) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo $i > $UWS_OUTPUTS/$i; i=$((i+1)); done; echo done"
    job = site.shell(script)
    site.runs(job)
    for _ in range(3):
        site.kill("web")
    seen = site.ended(job, "COMPLETED")
    assert len(seen["results"]) >= 200
    site.clear(job)


@pytest.mark.covers("4:fault-redis")
def test_redis_is_killed_while_jobs_run(site: Machinery) -> None:
    job = site.held()
    site.runs(job)
    site.kill("redis")
    until(site.up.healthy, "the server")
    site.let_go(job)
    site.completed(job)


@pytest.mark.covers("4:fault-everything", "4:adoption")
def test_every_process_is_killed_with_jobs_in_flight(site: Machinery) -> None:
    running, ending, aborted = site.held(), site.held(), site.held()
    for job in (running, ending, aborted):
        site.runs(job)
    waiting = site.shell("echo done", CPU="500")
    site.reason(waiting, "waiting for a node:")
    site.abort(aborted)
    pids = _family(site.up.process.pid)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, KILL)
    site.up.wait()
    until(lambda: not any(lives(pid) for pid in pids), "the end of all")
    site.let_go(ending)
    site.up = site.jobs.up = site.begin()
    site.completed(ending)
    site.ended(aborted, "ABORTED")
    site.clear(aborted)
    assert site.look(running)["phase"] == "EXECUTING"
    site.let_go(running)
    site.completed(running)
    assert site.look(waiting)["phase"] == "QUEUED"
    site.abort(waiting)
    site.ended(waiting, "ABORTED")
    site.clear(waiting, {})


# ---- the cluster's -----------------------------------------------------------------------------------------


@pytest.mark.covers("4:fault-api-server")
@pytest.mark.serial
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.long)])
def test_the_api_server_is_away(site: Machinery, seconds: float) -> None:
    running, ending = site.held(EXECUTIONDURATION="30"), site.held()
    for job in (running, ending):
        site.runs(job)
        site.reach(job, "EXECUTING")  # the agent's word of it follows
    site.api_server(up=False)
    try:
        site.let_go(running)
        site.let_go(ending)
        waiting = site.held()
        site.let_go(waiting)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for job in (running, ending):
                # Nothing is known of either, and nothing follows from that.
                assert site.look(job)["phase"] in ("EXECUTING", "COMPLETED")
            assert site.look(waiting)["phase"] == "QUEUED"
            time.sleep(0.5)
    finally:
        site.api_server(up=True)
    for job in (running, ending, waiting):
        site.completed(job)


@pytest.mark.covers("4:fault-api-server")
@pytest.mark.serial
@pytest.mark.long
def test_the_api_server_is_slow(site: Machinery) -> None:
    node = site.cluster.node(1)
    ending = site.held(EXECUTIONDURATION="30")
    site.runs(ending)
    site.let_go(ending)
    for _ in range(5):
        node.send("kube-apiserver", STOP)
        time.sleep(4)  # the fault itself: it answers a little, and late
        node.send("kube-apiserver", GO)
        time.sleep(0.5)
    site.completed(ending)
    job = site.held()
    site.let_go(job)
    site.completed(job)


@pytest.mark.covers("4:fault-watch")
@pytest.mark.serial
def test_watches_are_dropped(site: Machinery) -> None:
    job = site.held()
    site.runs(job)
    site.api_server(up=False)
    site.api_server(up=True)
    site.let_go(job)
    site.completed(job)


@pytest.fixture
def other_node(site: Machinery, second_node: Node) -> Iterator[Node]:
    """A node that only the jobs of this test run on, with their images."""
    site.cluster.import_image(images.agent_image())
    site.cluster.kubectl("cordon", "node1")
    try:
        yield second_node
    finally:
        site.cluster.kubectl("uncordon", "node1")
        if not second_node.lives():
            with suppress(Exception):
                site.cluster.kubectl("delete", "node", second_node.name, "--ignore-not-found")
            lifecycle.up(str(ROOT), nodes=2)


@pytest.mark.covers("4:fault-node")
@pytest.mark.serial
def test_a_node_that_is_away_for_a_while_costs_nothing(site: Machinery, other_node: Node) -> None:
    job = site.held()
    site.runs(job)
    other_node.stop("kubelet")
    until(lambda: not ready(site, other_node), "that the node is missed")
    assert site.look(job)["phase"] == "EXECUTING"
    other_node.restart("kubelet")
    until(lambda: ready(site, other_node), "that the node is back")
    site.let_go(job)
    site.completed(job)


@pytest.mark.covers("4:fault-node")
@pytest.mark.serial
@pytest.mark.long
def test_a_node_that_is_gone_costs_one_attempt(site: Machinery, other_node: Node) -> None:
    job = site.held()
    site.runs(job)
    site.reach(job, "EXECUTING")  # the agent's word of it follows
    other_node.end()
    site.cluster.kubectl("uncordon", "node1")
    site.runs(job, attempt=2, seconds=300)
    seen = site.reason(job, "twice")  # and so does its word of this one
    assert (seen["phase"], seen["attempt"]) == ("EXECUTING", 2)
    site.let_go(job)
    site.ended(job, "COMPLETED")
    site.cluster.kubectl("delete", "node", other_node.name)
    site.completed(job, attempts=2)


def ready(site: Machinery, node: Node) -> bool:
    conditions = site.cluster.get("node", node.name)["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready") == "True"
