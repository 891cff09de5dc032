"""The cluster that the tests of the Kubernetes runner stand on does what a cluster does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster import lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.fake_nodes import ENDS, POD_ON_FAKE_NODES, add_fake_nodes, remove_fake_nodes
from tests.cluster.images import agent_image, program_image
from tests.cluster.layout import ROOT
from tests.cluster.node import Node
from tests.cluster.programs import release
from tests.cluster.take_down import left_behind, take_away
from tests.waiting import until


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


def serve(cluster: Cluster, namespace: str, node: Node) -> None:
    """A pod on a node that serves one page, behind the Service ``web``."""
    server = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": namespace, "labels": {"app": "web"}},
        "spec": {
            "nodeName": node.name,
            "containers": [
                {
                    "name": "web",
                    "image": "localhost/busybox:1",
                    "command": ["sh", "-c", "echo found >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                }
            ],
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
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=100s")


ASK = "for i in $(seq 50); do timeout 2 wget -q -O - http://web/ && exit; sleep 0.2; done; exit 1"
"""Ask the Service by its short name, until kube-proxy knows of its pod."""


def test_names_of_services_resolve_and_lead_to_their_pods(cluster: Cluster, namespace: str) -> None:
    serve(cluster, namespace, cluster.node(1))
    assert outcome(cluster, namespace, job("ask", "sh", "-c", ASK)) == ("Complete", "found\n")


@pytest.mark.parametrize(("served", "asked"), [(1, 2), (2, 1)])
def test_pods_reach_each_other_across_nodes(
    cluster: Cluster, namespace: str, second_node: Node, served: int, asked: int
) -> None:
    serve(cluster, namespace, cluster.node(served))
    document = job("ask", "sh", "-c", ASK, nodeName=f"node{asked}")
    assert outcome(cluster, namespace, document) == ("Complete", "found\n")


def ready(cluster: Cluster, node: Node) -> str:
    conditions = cluster.get("node", node.name)["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready")


def test_a_stopped_kubelet_is_noticed_and_its_pod_lives_on(
    cluster: Cluster, namespace: str, second_node: Node
) -> None:
    document = job("steady", "sleep", "600", nodeName=second_node.name)
    document["metadata"]["namespace"] = namespace
    cluster.create(document)
    until(lambda: cluster.get("-n", namespace, "job", "steady")["status"].get("ready") == 1, "the job runs")
    second_node.stop("kubelet")
    until(lambda: ready(cluster, second_node) == "Unknown", "the node is missed")
    assert "sleep" in second_node.inside("ps", "-eo", "args")
    second_node.restart("kubelet")
    until(lambda: ready(cluster, second_node) == "True", "the node is back")


def test_a_node_that_is_gone_leaves_nothing_and_can_be_replaced(cluster: Cluster, second_node: Node) -> None:
    before = second_node.first_process()
    second_node.end()
    take_away(second_node)
    left = left_behind(cluster.layout)
    assert not [name for names in left.values() for name in names if second_node.name in name]
    again = lifecycle.up(str(ROOT), nodes=2).node(2)
    assert again.lives()
    assert again.first_process() != before


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

    until(is_so, f"{name} waits for one of {reasons}")
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


def test_pods_on_fake_nodes_run_until_they_are_told_to_end(cluster: Cluster, namespace: str) -> None:
    add_fake_nodes(cluster, 2)
    try:
        crowd = job("crowd", **POD_ON_FAKE_NODES)
        crowd["metadata"]["namespace"] = namespace
        crowd["spec"] |= {"parallelism": 500, "completions": 500}
        cluster.create(crowd)
        of_crowd = ("-n", namespace, "job", "crowd")
        until(lambda: cluster.get(*of_crowd)["status"].get("ready") == 500, "all 500 run")
        cluster.kubectl("-n", namespace, "annotate", "pods", "-l", "job-name=crowd", f"{ENDS}=0")
        ended = cluster.finished(namespace, "crowd")
        assert ended["status"]["succeeded"] == 500

        broken = job("broken", **POD_ON_FAKE_NODES)
        broken["metadata"]["namespace"] = namespace
        cluster.create(broken)
        until(lambda: cluster.get("-n", namespace, "job", "broken")["status"].get("ready") == 1, "it runs")
        cluster.kubectl("-n", namespace, "annotate", "pods", "-l", "job-name=broken", f"{ENDS}=3")
        assert cluster.finished(namespace, "broken")["status"]["failed"] == 1
        (pod,) = cluster.get("-n", namespace, "pods", "-l", "job-name=broken")["items"]
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    finally:
        remove_fake_nodes(cluster)
