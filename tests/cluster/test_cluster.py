"""The cluster that the tests of the Kubernetes runner stand on does what a cluster does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.images import agent_image, program_image
from tests.cluster.node import until
from tests.cluster.programs import release

pytestmark = pytest.mark.timeout(240)


def job(name: str, *command: str, image: str = "localhost/busybox:1", **pod: Any) -> dict[str, Any]:
    """A Job of one container that is not tried again."""
    container: dict[str, Any] = {"name": "main", "image": image}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container], **pod}},
        },
    }


def outcome(cluster: Cluster, namespace: str, document: dict[str, Any]) -> tuple[str, str]:
    """Run a Job; its deciding condition and what it logged."""
    document["metadata"]["namespace"] = namespace
    cluster.create(document)
    ended = cluster.finished(namespace, document["metadata"]["name"])
    (condition,) = {c["type"] for c in ended["status"]["conditions"]} & {"Complete", "Failed"}
    return condition, cluster.kubectl("-n", namespace, "logs", f"job/{document['metadata']['name']}")


@pytest.mark.parametrize(("status", "condition"), [(0, "Complete"), (3, "Failed")])
def test_a_job_runs_and_its_end_and_log_are_seen(
    cluster: Cluster, namespace: str, status: int, condition: str
) -> None:
    document = job("hello", "sh", "-c", f"echo hello from $(hostname); exit {status}")
    seen, log = outcome(cluster, namespace, document)
    assert seen == condition
    assert log.startswith("hello from hello-")


def test_names_of_services_resolve_and_lead_to_their_pods(cluster: Cluster, namespace: str) -> None:
    server = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": namespace, "labels": {"app": "web"}},
        "spec": {
            "containers": [
                {
                    "name": "web",
                    "image": "localhost/busybox:1",
                    "command": ["sh", "-c", "echo found >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                }
            ]
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cluster.create(server)
    cluster.create(service)
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=40s")
    # By its short name, within the namespace, as a pod would ask for the server of its store.
    ask = "for i in $(seq 50); do wget -q -O - http://web/ && exit; sleep 0.2; done; exit 1"
    assert outcome(cluster, namespace, job("ask", "sh", "-c", ask)) == ("Complete", "found\n")


def test_an_image_of_one_static_file_runs(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    # kubectl is a static program: alone in an image, there is no shell or library to fall back on.
    program_image("localhost/alone:1", cluster.programs / "kubectl", tmp_path / "alone.tar")
    cluster.import_image(tmp_path / "alone.tar")
    document = job("alone", image="localhost/alone:1")
    document["spec"]["template"]["spec"]["containers"][0]["args"] = ["version", "--client"]
    condition, log = outcome(cluster, namespace, document)
    assert condition == "Complete"
    assert release() in log


def test_the_agent_runs_in_its_image_without_root(cluster: Cluster, namespace: str) -> None:
    cluster.import_image(agent_image())
    # Every module of it: they are imported late, and one that only our environment has would be missed late.
    program = """
import importlib, os, pkgutil, runners.agent
for module in pkgutil.iter_modules(runners.agent.__path__, "runners.agent."):
    importlib.import_module(module.name)
print(os.getuid())
"""
    document = job("agent", "python3", "-c", program, image="localhost/agent:1")
    assert outcome(cluster, namespace, document) == ("Complete", "10001\n")


def waiting(cluster: Cluster, namespace: str, name: str, reasons: set[str]) -> str:
    """Wait until a Job's only container waits for one of these reasons; the message that comes with it."""
    seen: dict[str, str] = {}

    def is_so() -> bool:
        pods = cluster.get("-n", namespace, "pods", "-l", f"job-name={name}")["items"]
        for pod in pods:
            for container in pod["status"].get("containerStatuses", []):
                seen.update(container["state"].get("waiting", {}))
        return seen.get("reason") in reasons and "message" in seen

    until(40, f"{name} waits for one of {reasons}", is_so)
    return seen["message"]


def test_the_registry_gives_images_to_those_who_log_in_only(cluster: Cluster, namespace: str) -> None:
    image = cluster.push_image("localhost/busybox:1", f"{namespace}/busybox:1")
    right = cluster.pull_secret(namespace)
    wrong = cluster.pull_secret(namespace, "wrong", password="guessed")
    cluster.create(
        job("nobody", "true", image=image) | {"metadata": {"name": "nobody", "namespace": namespace}}
    )
    document = job("guesser", "true", image=image, imagePullSecrets=[{"name": wrong}])
    document["metadata"]["namespace"] = namespace
    cluster.create(document)
    for name in ("nobody", "guesser"):
        assert "401 Unauthorized" in waiting(cluster, namespace, name, {"ErrImagePull", "ImagePullBackOff"})
    allowed = job("allowed", "echo", "pulled", image=image, imagePullSecrets=[{"name": right}])
    assert outcome(cluster, namespace, allowed) == ("Complete", "pulled\n")
