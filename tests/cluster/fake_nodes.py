"""Nodes that do not exist, played by kwok, for tests with more pods than this machine can run."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.bring_up import MANIFESTS
from tests.cluster.cluster import Cluster
from tests.cluster.programs import built_kwok

ENDS = "uws.test/exit"
"""The annotation that ends a pod on a fake node, with its value as exit code."""

POD_ON_FAKE_NODES: dict[str, Any] = {
    "nodeSelector": {"type": "fake"},
    "tolerations": [{"key": "fake", "operator": "Exists"}],
}
"""What a pod's spec needs to land there; no other pod does."""


def add_fake_nodes(cluster: Cluster, count: int) -> None:
    """Have ``count`` fake nodes, each with room for a thousand pods.

    A pod there runs at once, and ends when it gets the annotation `ENDS` (`manifests/fake-pods.yaml`).
    """
    programs = built_kwok()
    node = cluster.node(1)
    if not node.runs("kwok"):
        node.start(
            "kwok",
            *(programs / "kwok", f"--kubeconfig={cluster.layout.state}/kwok.kubeconfig"),
            *(f"--config={programs}/nodes.yaml", f"--config={MANIFESTS}/fake-pods.yaml"),
            *("--manage-nodes-with-label-selector=type=fake", "--node-lease-duration-seconds=40"),
        )
    room = {"cpu": "1000", "memory": "4Ti", "pods": "1000", "ephemeral-storage": "4Ti"}
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"fake-{number}",
                "labels": {"type": "fake", "kubernetes.io/hostname": f"fake-{number}"},
            },
            "spec": {"taints": [{"key": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": room, "allocatable": room},
        }
        for number in range(1, count + 1)
    ]
    cluster.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}))
    cluster.kubectl("wait", "--for=condition=Ready", "node", "-l", "type=fake", "--timeout=100s")


def remove_fake_nodes(cluster: Cluster) -> None:
    """Take the fake nodes away, with the pods on them, and end kwok."""
    cluster.kubectl("delete", "node", "-l", "type=fake", "--wait=false")
    node = cluster.node(1)
    if node.runs("kwok"):
        node.stop("kwok")
