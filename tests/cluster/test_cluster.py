"""The cluster that the tests of the Kubernetes runner stand on does what a cluster does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.cluster import Cluster

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
