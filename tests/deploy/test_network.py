"""The chart's NetworkPolicies, enforced: what a job's pod reaches, and who reaches the server's.

Every probe is shown to succeed when no policy holds, before and after: against real listeners, over the same
names and addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runners.kubernetes import manifest
from runners.kubernetes.manifest import PodSettings
from tests.cluster.cluster import Cluster
from tests.cluster.node import Failed
from tests.cluster.policies import enforced, translate
from tests.deploy.helm import objects, only, template
from tests.deploy.release import Release, released
from tests.waiting import until
from uws_server.domain.runspec import RunSpec

METADATA = "169.254.169.254"
SPEC = Path(__file__).parents[1] / "golden" / "runspec" / "container.json"
pytestmark = [
    pytest.mark.timeout(1200),  # the first run builds Helm
    pytest.mark.serial,  # policies hold, and do not, for the whole cluster
]


@dataclass(frozen=True, slots=True)
class Network:
    """The chart, and pods of ours in the places of its own: each serves HTTP at one port."""

    release: Release
    addresses: Mapping[str, str]

    @property
    def targets(self) -> dict[str, str]:
        """What is there to be reached: word → host and port."""
        release, layout = self.release, self.release.cluster.layout
        inside = f"{release.namespace}.svc.cluster.local"
        return {
            "door": f"{self.addresses['web']} 8080",
            "door by name": f"uws-web.{inside} 80",
            "API server": f"{layout.node_ip(1)} 6443",
            "API server by name": "kubernetes.default.svc.cluster.local 443",
            "Redis": f"{self.addresses['redis']} 6379",
            "Redis by name": f"uws-redis.{inside} 6379",
            "metadata": f"{METADATA} 80",
            "another job": f"{self.addresses['neighbour']} 8080",
            "a watcher": f"{self.addresses['watch']} 8080",
            "the node": f"{layout.node_ip(1)} 10250",
        }

    def all_reached(self, pod: str) -> None:
        """See that a pod can connect to all of it, as it can without policies."""
        last: set[str] = set()
        everything = set(self.targets)

        def all_of_it() -> bool:
            last.clear()
            last.update(self.reached(pod))
            return last == everything

        until(all_of_it, lambda: f"{pod} reaches {everything - last}")

    def reached(self, pod: str) -> set[str]:
        """What of it a pod can connect to."""
        probes = "\n".join(
            f"(timeout 3 nc -w 2 {where} -e /bin/true </dev/null >/dev/null 2>&1 && echo '{word}') &"
            for word, where in self.targets.items()
        )
        home = self.release.jobs if pod in {"job", "neighbour"} else self.release.namespace
        kubectl = self.release.cluster.kubectl
        return set(kubectl("-n", home, "exec", pod, "--", "sh", "-c", f"{probes}\nwait").splitlines())


@pytest.fixture(scope="module")
def network(cluster: Cluster) -> Iterator[Network]:
    with released(cluster) as release, metadata(cluster):
        ours = {
            component: only(objects(template("least.yaml")), kind, f"uws-{component}")["spec"]["template"]
            for component, kind in (("web", "Deployment"), ("watch", "Deployment"), ("redis", "StatefulSet"))
        }
        settings = PodSettings(
            release.jobs, f"{release.namespace}-uws", "localhost/none:1", "localhost/none:1"
        )
        job = manifest.job(RunSpec.from_json(SPEC.read_bytes()), settings, "http://uws/agent/v1", "token")
        mine = job["spec"]["template"]["metadata"]["labels"]
        places = {
            "web": (release.namespace, ours["web"]["metadata"]["labels"], 8080),
            "watch": (release.namespace, ours["watch"]["metadata"]["labels"], 8080),
            "redis": (release.namespace, ours["redis"]["metadata"]["labels"], 6379),
            "stranger": (release.namespace, {}, 8080),
            "job": (release.jobs, mine, 8080),
            "neighbour": (release.jobs, mine, 8080),
        }
        for name, (namespace, labels, port) in places.items():
            cluster.create(listener(name, namespace, labels, port))
        for name, (namespace, _, _) in places.items():
            cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=100s")
        addresses = {
            name: cluster.get("-n", namespace, "pod", name)["status"]["podIP"]
            for name, (namespace, _, _) in places.items()
        }
        yield Network(release, addresses)


def listener(name: str, namespace: str, labels: Mapping[str, str], port: int) -> dict[str, object]:
    """A restricted pod that answers at a port."""
    shut = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    who = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "main",
        "image": "localhost/busybox:1",
        "command": ["httpd", "-f", "-p", str(port), "-h", "/tmp"],
        "securityContext": shut,
        "ports": [{"name": {8080: "http", 6379: "redis"}[port], "containerPort": port}],  # as Services ask
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    }
    pod = {"containers": [container], "securityContext": who, "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {**pod, "automountServiceAccountToken": False},
    }


@contextmanager
def metadata(cluster: Cluster) -> Iterator[None]:
    """Something that answers at a cloud's metadata address, on the cable of the node."""
    node, program = cluster.node(1), "metadata"
    address = ("ip", "address")
    node.inside(*address, "replace", f"{METADATA}/32", "dev", "eth0")
    try:
        node.start(program, "/bin/busybox", "httpd", "-f", "-p", f"{METADATA}:80", "-h", node.directory)
        yield
    finally:
        with suppress(Failed):  # it may never have begun
            node.stop(program)
        node.inside(*address, "del", f"{METADATA}/32", "dev", "eth0")


@pytest.mark.covers("4:network-jobs")
def test_a_job_s_pod_reaches_names_and_the_door_alone(network: Network) -> None:
    network.all_reached("job")
    with enforced(network.release.cluster):
        assert network.reached("job") == {"door", "door by name"}
    network.all_reached("job")


@pytest.mark.covers("4:network-server")
def test_redis_is_reached_by_the_server_s_own_pods_alone(network: Network) -> None:
    redis, all_ours = {"Redis", "Redis by name"}, {"door", "door by name", "API server", "metadata"}
    for pod in ("watch", "stranger", "redis"):
        network.all_reached(pod)
    with enforced(network.release.cluster):
        assert network.reached("watch") >= redis | all_ours
        stranger = network.reached("stranger")
        assert not stranger & (redis | {"a watcher", "another job"})
        assert stranger >= all_ours
        assert network.reached("redis") == {"Redis"}  # itself
    network.all_reached("stranger")


@pytest.mark.covers("4:network-jobs")
def test_a_site_s_own_egress_is_reached_as_far_as_it_goes(network: Network) -> None:
    cluster, release = network.release.cluster, network.release
    place = f"{network.addresses['stranger']}/32"
    rule = {"to": [{"ipBlock": {"cidr": place}}], "ports": [{"protocol": "TCP", "port": 8080}]}
    stranger = f"nc -w 2 {network.addresses['stranger']} 8080 -e /bin/true </dev/null"

    def reached() -> bool:
        return cluster.answers("-n", release.jobs, "exec", "job", "--", "timeout", "3", "sh", "-c", stranger)

    assert reached()
    with enforced(cluster):
        assert not reached()
        patch = f'[{{"op": "add", "path": "/spec/egress/-", "value": {rule}}}]'.replace("'", '"')
        cluster.kubectl(
            "-n", release.jobs, "patch", "networkpolicy", "uws-jobs", "--type=json", f"-p={patch}"
        )
        until(reached, "the new rule holds")


def test_a_policy_that_is_not_understood_is_refused_and_not_half_enforced() -> None:
    least: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Egress"]}
    strange: list[dict[str, Any]] = [
        {"egress": [{"ports": [{"port": "http"}]}]},
        {"egress": [{"ports": [{"port": 1, "endPort": 2}]}]},
        {"egress": [{"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}]},
        {"podSelector": {"matchNames": {}}},
    ]
    pod = {"metadata": {"namespace": "a"}, "spec": {}, "status": {"podIP": "10.0.0.1"}}
    for spec in ({}, *strange):
        policy = {"metadata": {"namespace": "a"}, "spec": least | spec}
        with pytest.raises(Failed, match="not translated") if spec else nullcontext():
            translate([policy], [pod], [{"metadata": {"name": "a"}}])
