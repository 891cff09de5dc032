"""A cluster that is up, as tests use it."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.layout import REGISTRY, REGISTRY_PASSWORD, REGISTRY_USER, Layout
from tests.cluster.node import Failed, Node, run
from tests.waiting import PATIENCE, until


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and the directory of the programs it runs."""

    layout: Layout
    programs: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for any client."""
        return self.layout.kubeconfig

    def nodes(self) -> list[Node]:
        return [Node(self.layout, number) for number in self.layout.nodes()]

    def node(self, number: int) -> Node:
        """A node; node 1 has the control plane too."""
        return Node(self.layout, number)

    def kubectl(self, *words: str, text: str | None = None, seconds: float = PATIENCE) -> str:
        """What kubectl prints; raises `Failed` with what it complained of."""
        return run(
            self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *words, text=text, seconds=seconds
        )

    def answers(self, *words: str) -> bool:
        """Whether kubectl succeeds."""
        try:
            self.kubectl("--request-timeout=5s", *words)
        except (Failed, subprocess.TimeoutExpired):
            return False
        return True

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """Create an object; gives it as the API server answered."""
        answer: dict[str, Any] = json.loads(
            self.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(document))
        )
        return answer

    def get(self, *words: str) -> dict[str, Any]:
        """An object or a list of them, as the API server answered."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return answer

    @contextmanager
    def namespace(self, labels: dict[str, str] | None = None) -> Iterator[str]:
        """A namespace that goes, with all in it, at the end."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
        )
        accounts = ("-n", name, "get", "serviceaccount", "default")
        try:
            until(lambda: self.answers(*accounts), f"pods can be made in {name}")
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def finished(self, namespace: str, job: str) -> dict[str, Any]:
        """A Job once it is Complete or Failed."""

        def ended() -> bool:
            conditions = self.get("-n", namespace, "job", job)["status"].get("conditions", [])
            return any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in conditions)

        until(ended, f"Job {job} has ended")
        return self.get("-n", namespace, "job", job)

    # ---- images ------------------------------------------------------------------------------------------

    def import_image(self, archive: Path) -> None:
        """Put the images of an archive (of `images.pack`, or of ``docker save``) on every node."""
        for node in self.nodes():
            node.inside(*_images(node), "import", archive)

    def tag_image(self, image: str, name: str) -> None:
        """Give an image another name, on every node."""
        for node in self.nodes():
            node.inside(*_images(node), "tag", "--force", image, name)

    def push_image(self, image: str, name: str) -> str:
        """Push an image of node 1 to the registry as ``name:tag``; gives the reference that pods name."""
        node, reference = self.node(1), f"{REGISTRY}/{name}"
        ctr = _images(node)
        node.inside(*ctr, "tag", "--force", image, reference)
        try:
            login = ("--user", f"{REGISTRY_USER}:{REGISTRY_PASSWORD}")
            node.inside(*ctr, "push", "--hosts-dir", node.directory / "registries", *login, reference)
        finally:
            node.inside(*ctr, "remove", "--sync", reference)
        return reference

    def pull_secret(self, namespace: str, name: str = "registry", password: str = REGISTRY_PASSWORD) -> str:
        """A Secret with which pods of a namespace may pull from the registry; gives its name."""
        login = {"username": REGISTRY_USER, "password": password}
        self.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": json.dumps({"auths": {REGISTRY: login}})},
            }
        )
        return name


def _images(node: Node) -> tuple[str, ...]:
    """The beginning of a command on a node's images."""
    return ("ctr", "--address", str(node.containerd), "--namespace=k8s.io", "images")
