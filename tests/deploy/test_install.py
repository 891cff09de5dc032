"""The chart, installed with this checkout's images: the demo's notebook runs through it in the cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.policies import enforced
from tests.deploy.docker_engine import Engine
from tests.deploy.release import Release, released
from tests.light_curves import write_light_curve
from tests.s3_servers import versitygw
from tests.waiting import until
from uws_server import redis_server

pytestmark = [
    pytest.mark.timeout(1800),  # images are built, and the first run builds Helm
    pytest.mark.serial,  # policies are enforced for the whole cluster
]


@dataclass(frozen=True, slots=True)
class Installed:
    """A server that runs in the cluster, with its policies enforced."""

    release: Release
    directory: Path
    url: str

    def client(self, *words: str | Path) -> str:
        """What `uws-job` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "uws_client.cli", *map(str, words)],
            env={"UWS_SERVER": self.url, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr, self.said())
        return done.stdout

    def said(self) -> str:
        """The last words of the server's processes."""
        words = ("logs", "--selector=app.kubernetes.io/name=uws-server", "--prefix", "--tail=15")
        return self.release.cluster.kubectl("-n", self.release.namespace, *words)


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster,
    engine: Engine,
    built: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installed]:
    directory = tmp_path_factory.mktemp("installed")
    for image in ("server", "agent"):
        archive = directory / f"{image}.tar"
        engine.docker("save", "--output", archive, built(image), seconds=300)
        cluster.import_image(archive)
        archive.unlink()
    cluster.import_image(images.notebook_image())  # takes minutes to build as it is shipped: test_images.py
    valkey_image(directory / "valkey.tar")
    cluster.import_image(directory / "valkey.tar")
    with ExitStack() as stack:
        (directory / "s3").mkdir()
        store = stack.enter_context(versitygw(directory / "s3", cluster.layout.host_ip))
        address, port = store.endpoint.removeprefix("http://").split(":")
        egress = [{"to": [{"ipBlock": {"cidr": f"{address}/32"}}], "ports": [{"port": int(port)}]}]
        said = {
            "images.tag": "test",
            "redis.image": "localhost/valkey:1",
            "objects.url": f"s3://{store.bucket().name}/uws",
            "objects.endpoint": store.endpoint,
            "objects.credentialsSecret": "s3",
            "jobs.egress.internet": "false",
            "settings.sites.cluster.kubernetes.notebook_image": "localhost/notebook:1",
        }
        values = [f"--set={key}={value}" for key, value in said.items()]
        values.append(f"--set-json=jobs.egress.also={json.dumps(egress)}")
        release = stack.enter_context(released(cluster, *values))
        stack.enter_context(enforced(cluster))
        stack.enter_context(volume(release))
        key = f"[default]\naws_access_key_id = {store.key.id}\naws_secret_access_key = {store.key.secret}\n"
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s3", "namespace": release.namespace},
                "stringData": {"credentials": key},
            }
        )
        release.ready()
        service = cluster.get("-n", release.namespace, "service", "uws-web")
        yield Installed(release, directory, f"http://{service['spec']['clusterIP']}")


CLI = """#!/usr/bin/python3
import os, socket
with socket.create_connection(("127.0.0.1", 6379), 2) as server:
    server.sendall(f"AUTH {os.environ['REDISCLI_AUTH']}\\r\\nPING\\r\\n".encode())
    answers = server.makefile()
    print(answers.readline() + answers.readline())
"""
"""`valkey-cli ping`, which the wheel does not have."""


def valkey_image(archive: Path) -> None:
    """``localhost/valkey:1``: the server of the wheel that `up` runs too, as no registry is at hand."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        root = Path(work)
        root.chmod(0o755)
        (root / "usr/local/bin").mkdir(parents=True)
        shutil.copy(redis_server.find(path=""), root / "usr/local/bin/valkey-server")
        (root / "usr/local/bin/valkey-cli").write_text(CLI)
        for path in root.rglob("*"):
            path.chmod(0o755)
        images.pack("localhost/valkey:1", [images._debian(), root], archive, {})


@contextmanager
def volume(release: Release) -> Iterator[None]:
    """The volume that Redis claims, as this cluster makes none."""
    name, place = f"{release.namespace}-redis", f"/var/lib/{release.namespace}-redis"
    node = release.cluster.node(1)
    node.inside("mkdir", "--mode=0777", place)
    claim = {"namespace": release.namespace, "name": "data-uws-redis-0"}
    release.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "10Gi"},
                "claimRef": claim,
                "hostPath": {"path": place},
            },
        }
    )
    try:
        yield
    finally:
        release.cluster.kubectl("delete", "persistentvolume", name, "--wait=false")
        node.inside("rm", "--recursive", place)


@pytest.mark.covers("4:deploy-install")
def test_the_demo_s_notebook_runs_in_the_cluster(installed: Installed, tmp_path: Path) -> None:
    release, cluster = installed.release, installed.release.cluster
    light_curve = tmp_path / write_light_curve(tmp_path)
    job = installed.client("submit", "lightcurve", f"light_curve=@{light_curve}").strip()
    installed.client("wait", job)
    installed.client("results", job, tmp_path / "results")
    found = json.loads((tmp_path / "results" / "period.json").read_text())
    assert found["period"] == pytest.approx(0.93697, abs=2e-5)
    left = ("-n", release.jobs, "get", "jobs,pods", "--output=name")
    until(lambda: not cluster.kubectl(*left), "nothing of it is left")


@pytest.mark.covers("4:deploy-install")
def test_check_finds_everything_in_order_from_inside(installed: Installed) -> None:
    release = installed.release
    exec_ = ("-n", release.namespace, "exec", "deployment/uws-watch", "--", "sh", "-c")
    said = release.cluster.kubectl(*exec_, "uws-server check; echo $?")
    assert "broken" not in said
    assert "It takes a job, by a dry run." in said
    assert "append-only file, fsynced at each write" in said
    assert "Signed links store and give objects." in said


@pytest.mark.covers("4:deploy-install")
def test_a_job_runs_on_while_every_pod_of_the_server_is_replaced(installed: Installed) -> None:
    release, cluster = installed.release, installed.release.cluster
    command = json.dumps(["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done; echo attempt $UWS_ATTEMPT"])
    job = installed.client("submit", "container", "image=localhost/busybox:1", f"command={command}").strip()
    until(lambda: "EXECUTING" in installed.client("show", job), "it runs")
    (pod,) = cluster.kubectl("-n", release.jobs, "get", "pods", "--output=name").split()
    old = set(release.pods())
    delete = ("delete", "pods", "--selector=app.kubernetes.io/name=uws-server", "--grace-period=1")
    cluster.kubectl("-n", release.namespace, *delete, seconds=120)
    release.ready()
    assert not old & set(release.pods())
    cluster.kubectl("-n", release.jobs, "exec", pod, "--container=main", "--", "touch", "/tmp/go")
    installed.client("wait", job)
    installed.client("results", job, installed.directory / "results")
    assert (installed.directory / "results" / "stdout.txt").read_text() == "attempt 1\n"


@pytest.mark.long
@pytest.mark.covers("4:probes")
def test_a_watcher_that_can_list_no_more_is_not_ready_until_it_can(installed: Installed) -> None:
    release, cluster = installed.release, installed.release.cluster
    role = ("-n", release.jobs, "get", "role", "uws-watch", "--output=json")
    kept = json.loads(cluster.kubectl(*role))

    def ready() -> str:
        return cluster.kubectl(
            *("-n", release.namespace, "get", "deployment", "uws-watch"),
            "--output=jsonpath={.status.readyReplicas}",
        )

    assert ready() == "2"
    cluster.kubectl("-n", release.jobs, "delete", "role", "uws-watch")
    until(lambda: ready() == "1", "who acts is not ready, and who stands by is", 240)
    meta = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    cluster.create({**kept, "metadata": meta})
    until(lambda: ready() == "2", "both are ready")
