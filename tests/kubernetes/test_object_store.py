"""A cluster's jobs whose objects lie in S3: pods store and fetch there by signed links, and it may fail."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients.plain import Answer, Client
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.kubernetes.site import OWN, Site, container_is
from tests.kubernetes.sources import Sources
from tests.s3_gate import Gate, gate
from tests.s3_servers import S3Server, versitygw
from tests.up_process import UpProcess, running_up
from tests.waiting import until

covers = pytest.mark.covers

LARGE = 3 * 1024**2
PREFIX = "observatory/uws"
INPUT = bytes(range(256)) * 1000


class S3Site(Site):
    """A site whose server and pods see S3 through a gate. ``disk`` is where the S3 server has its files."""

    def __init__(
        self, up: UpProcess, cluster: Cluster, namespace: str, sources: Sources, disk: Path, between: Gate
    ) -> None:
        super().__init__(up, cluster, namespace, sources)
        self.client = Client(up.url)
        self.gate = between
        self._disk = disk

    @property
    def objects(self) -> Path:
        """Where the S3 server has its objects, as files."""
        return self._disk

    def keys(self, job: str) -> set[str]:
        """What S3 has of a job."""
        return {str(path.relative_to(self.objects / "jobs" / _id(job))) for path in self.stored(job)}

    def upload(self, script: str, **words: str) -> str:
        """Make a job, not run yet, of a shell script and the input; its URL."""
        count = f"wget -q -O /dev/null {self.sources.url}/started/$UWS_JOB_ID/$UWS_ATTEMPT || exit 99\n"
        words = {"command": json.dumps(["sh", "-c", count + script]), **words}
        return self.client.upload("task", {"input": INPUT}, words)

    def start(self, job: str) -> None:
        """Let a job run."""
        assert self.client.post(f"{job}/phase", {"PHASE": "RUN"}).status == 303

    def ask(self, job: str, result: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a result, as the answer comes."""
        return self.client.ask(method, f"{job}/results/{result}", headers=headers)


def _id(job: str) -> str:
    return job.rpartition("/")[2]


@contextmanager
def site_with(
    cluster: Cluster, sources: Sources, server: S3Server, disk: Path, data: Path, between: Gate
) -> Iterator[S3Site]:
    """A server that has its objects in a new bucket behind a gate."""
    bucket = server.bucket(PREFIX)
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        where = {
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "agent_image": "localhost/agent:1",
        }
        environment = {
            **server.environment(),
            "UWS_WEB__HOST": cluster.layout.host_ip,
            "UWS_AUTH__ANONYMOUS": "anywhere",
            "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(Path(__file__).parent / "templates")]),
            "UWS_SITES": json.dumps({"cluster": {"runner": "kubernetes", "kubernetes": where}}),
            "UWS_OBJECTS__URL": f"s3://{bucket.name}/{PREFIX}",
            "UWS_OBJECTS__ENDPOINT": between.endpoint,
            # What clients are told: they do not come through the gate.
            "UWS_OBJECTS__PUBLIC_ENDPOINT": server.endpoint.replace("127.0.0.1", "localhost"),
        }
        with running_up(data, environment=environment) as up:
            objects = disk / "root" / bucket.name / PREFIX
            yield S3Site(up, cluster, namespace, sources, objects, between)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, S3Server, S3Server]]:
    """A disk, an S3 server on it, and another one on it that takes the first one's key for a wrong one."""
    disk = tmp_path_factory.mktemp("versitygw")
    with versitygw(disk) as server, versitygw(disk) as other:
        yield disk, server, other


@pytest.fixture(scope="module")
def s3(
    cluster: Cluster,
    sources: Sources,
    servers: tuple[Path, S3Server, S3Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[S3Site]:
    cluster.import_image(images.agent_image())
    disk, server, _ = servers
    data = tmp_path_factory.mktemp("up-s3") / "data"
    with (
        gate(server.endpoint, cluster.layout.host_ip) as between,
        site_with(cluster, sources, server, disk, data, between) as site,
    ):
        yield site


@pytest.fixture
def faults(s3: S3Site, servers: tuple[Path, S3Server, S3Server]) -> Iterator[Callable[[str], None]]:
    """Make S3 fail in a way, or ``none``; it works again after the test."""
    _, server, other = servers

    def fail(fault: str) -> None:
        s3.gate.lead_to(other.endpoint if fault == "key revoked" else server.endpoint)
        s3.gate.refuse(10**9 if fault == "away" else 0)

    yield fail
    fail("none")


MAKING = f"""
cp $UWS_INPUTS/input/input.py $UWS_OUTPUTS/same.bin
echo 1,2,3 > $UWS_OUTPUTS/small.csv
head -c {LARGE} /dev/zero > $UWS_OUTPUTS/large.bin
echo first
"""


@pytest.fixture(scope="module")
def made(s3: S3Site) -> str:
    """A job that has an input, whose log is read while it runs, and that makes results."""
    wait = f"wget -q -O /dev/null {s3.sources.url}/gated/live; echo last"
    job = s3.upload(MAKING + wait)
    s3.start(job)
    until(lambda: s3.jobs.ask(f"{job}/results/stdout").body == b"first\n", "the log of a running job")
    assert s3.look(job)["phase"] == "EXECUTING"
    s3.sources.gates["live"].set()
    s3.ended(job, "COMPLETED")
    return job


@covers("4:object-store-cluster")
def test_inputs_live_logs_and_results_pass_through_the_bucket(s3: S3Site, made: str) -> None:
    assert s3.result(made, "stdout") == b"first\nlast\n"
    assert s3.result(made, "result.same.bin") == INPUT
    assert s3.keys(made) >= {"1/manifest.json", "1/results/small.csv", "1/results/large.bin"}
    assert any(key.startswith("1/logs/stdout/") for key in s3.keys(made))
    assert any(key.startswith("parameters/") for key in s3.keys(made))
    assert list((s3.up.data / "objects").rglob("*")) == []
    assert s3.starts(made) == {1: 1}


@covers("4:object-store-cluster", "3:results-redirect", "3:results-range", "3:results-head")
def test_results_are_sent_by_us_or_by_a_link_to_the_public_endpoint(s3: S3Site, made: str) -> None:
    small = s3.ask(made, "result.small.csv")
    assert (small.status, small.body) == (200, b"1,2,3\n")
    head = s3.ask(made, "result.large.bin", "HEAD")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(LARGE), b"")
    sent = s3.ask(made, "result.large.bin")
    assert sent.status == 303
    assert urlsplit(sent.location).hostname == "localhost"
    whole = s3.client.get(sent.location)
    assert (whole.status, whole.body) == (200, bytes(LARGE))
    part = s3.client.get(sent.location, Range="bytes=5-9")
    assert (part.status, part.body) == (206, bytes(5))
    ranged = s3.ask(made, "result.same.bin", Range="bytes=256-511")
    assert (ranged.status, ranged.body) == (206, bytes(range(256)))


@covers("4:object-store-cluster")
def test_delete_takes_the_objects_away(s3: S3Site) -> None:
    job = s3.upload("echo 1 > $UWS_OUTPUTS/a.txt")
    s3.start(job)
    s3.ended(job, "COMPLETED")
    assert "1/results/a.txt" in s3.keys(job)
    s3.clear(job)  # deletes it, and waits until no object is left
    assert s3.keys(job) == set()


FAULTS = ["away", pytest.param("key revoked", marks=pytest.mark.long)]


@covers("4:object-store-fault-in", "4:object-store-outage")
@pytest.mark.parametrize("fault", FAULTS)
def test_s3_fails_while_inputs_are_fetched(s3: S3Site, faults: Callable[[str], None], fault: str) -> None:
    job = s3.upload("cp $UWS_INPUTS/input/input.py $UWS_OUTPUTS/; echo done")
    faults(fault)
    s3.start(job)
    s3.pod(job, container_is("running", "agent"))
    tried(s3)
    assert s3.starts(job) == {}
    assert s3.look(job)["phase"] == "QUEUED"
    faults("none")
    done(s3, job, b"done\n", INPUT)


@covers("4:object-store-fault-run", "4:object-store-outage")
@pytest.mark.parametrize("fault", FAULTS)
def test_s3_fails_while_the_code_runs(s3: S3Site, faults: Callable[[str], None], fault: str) -> None:
    name = f"run {fault}".replace(" ", "-")
    wait = f"echo begun; wget -q -O /dev/null {s3.sources.url}/gated/{name}"
    job = s3.shell(f"{wait}-1; echo away; {wait}-2; echo result > $UWS_OUTPUTS/result.txt; echo ended")
    until(lambda: s3.jobs.ask(f"{job}/results/stdout").body == b"begun\n", "the first line")
    faults(fault)
    s3.sources.gates[f"{name}-1"].set()
    tried(s3)
    assert s3.look(job)["phase"] == "EXECUTING"
    faults("none")
    until(lambda: s3.jobs.ask(f"{job}/results/stdout").body == b"begun\naway\nbegun\n", "the rest of the log")
    s3.sources.gates[f"{name}-2"].set()
    done(s3, job, b"begun\naway\nbegun\nended\n", b"result\n")


@covers("4:object-store-fault-end", "4:object-store-outage")
@pytest.mark.parametrize(
    ("fault", "away"),
    [("away", 1), *(pytest.param(fault, 40, marks=pytest.mark.long) for fault in ("away", "key revoked"))],
)
def test_s3_fails_when_results_are_to_be_stored(
    s3: S3Site, faults: Callable[[str], None], fault: str, away: float
) -> None:
    """For longer, too, than a pod has that is to end."""
    name = f"end {fault} {away}".replace(" ", "-")
    wait = f"wget -q -O /dev/null {s3.sources.url}/gated/{name}"
    job = s3.shell(f"echo begun; {wait}; echo result > $UWS_OUTPUTS/result.txt; echo ended")
    until(lambda: s3.jobs.ask(f"{job}/results/stdout").body == b"begun\n", "the first line")
    faults(fault)
    s3.sources.gates[name].set()
    s3.pod(job, container_is("terminated", "main"))
    back = time.monotonic() + away
    tried(s3)
    until(lambda: time.monotonic() > back, "the end of the fault")
    assert s3.look(job)["phase"] == "EXECUTING"
    faults("none")
    done(s3, job, b"begun\nended\n", b"result\n")


def tried(s3: S3Site) -> None:
    """Wait until somebody has tried to reach S3 a few times more."""
    entered, passed = s3.gate.entered, s3.gate.passed
    until(lambda: s3.gate.entered > entered + 3 or s3.gate.passed > passed + 5_000, "tries to reach S3")


def done(s3: S3Site, job: str, log: bytes, result: bytes) -> None:
    """See that the job came to its end on its first attempt, with all it made."""
    seen = s3.ended(job, "COMPLETED")
    assert (seen["attempt"], seen["errorSummary"]) == (1, None)
    assert {one["id"] for one in seen["results"]} == {"result", *OWN}
    assert s3.result(job, "stdout") == log
    assert s3.result(job, "result") == result
    s3.clear(job)
