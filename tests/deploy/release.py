"""The chart in a cluster, for the time of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cluster.cluster import Cluster
from tests.cluster.node import Failed
from tests.deploy.helm import CHART, VALUES, helm

COMPONENTS = ("web", "start", "stop", "watch", "reconcile")


@dataclass(frozen=True, slots=True)
class Release:
    """The chart, installed as ``uws`` with the least values and what more is said to Helm."""

    cluster: Cluster
    namespace: str
    values: tuple[str, ...] = ()

    @property
    def jobs(self) -> str:
        return f"{self.namespace}-jobs"

    @property
    def words(self) -> tuple[str, ...]:
        place = (f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}")
        values = (f"--values={VALUES / 'least.yaml'}", f"--set=jobs.namespace={self.jobs}")
        return ("uws", str(CHART), *place, *values, *self.values)

    def install(self) -> None:
        helm("install", *self.words)

    def upgrade(self) -> None:
        helm("upgrade", *self.words)

    def uninstall(self) -> None:
        helm("uninstall", "uws", f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}")

    def ready(self) -> None:
        """Wait until every process is ready."""
        for one in ("statefulset/uws-redis", *(f"deployment/uws-{name}" for name in COMPONENTS)):
            wait = ("rollout", "status", one, "--timeout=150s")
            try:
                self.cluster.kubectl("-n", self.namespace, *wait, seconds=180)
            except Failed as error:
                error.add_note(self.cluster.kubectl("-n", self.namespace, "get", "pods", "-o", "wide"))
                error.add_note(self.cluster.kubectl("-n", self.namespace, "events", "--types=Warning"))
                raise

    def pods(self) -> list[str]:
        """The server's own pods, by uid."""
        found = self.cluster.get("-n", self.namespace, "pods")["items"]
        return [one["metadata"]["uid"] for one in found]

    def secret(self, name: str) -> dict[str, str]:
        data: dict[str, str] = self.cluster.get("-n", self.namespace, "secret", name)["data"]
        return data


@contextmanager
def released(cluster: Cluster, *values: str) -> Iterator[Release]:
    """The chart in a namespace that refuses pods which are not restricted. Nobody waits for its images."""
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        release = Release(cluster, namespace, values)
        release.install()
        try:
            yield release
        finally:
            cluster.kubectl("delete", "namespace", release.jobs, "--wait=false")
