"""The Kubernetes runner from the settings of a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.config import ConfigException

from runners.kubernetes.cluster import Cluster
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.runner import KubernetesRunner
from uws_server.config_file import BadConfig
from uws_server.settings import Settings


@dataclass(frozen=True, slots=True)
class PodIsolation:
    """What a pod of ours keeps user code from."""

    mode: str
    sealed: bool
    holds: tuple[str, ...]
    lacks: tuple[str, ...]


ISOLATION = PodIsolation(
    "pods",
    sealed=True,
    holds=(
        "Jobs run in restricted pods of their own, without an account of the cluster.",
        "The agent's token is in a container that they do not see.",
    ),
    lacks=("What a pod may reach on the network is up to the cluster's NetworkPolicies.",),
)


def open_runner(settings: Settings, name: str) -> KubernetesRunner:
    """The runner of one site.

    :raises BadConfig: there is no such kubeconfig or context.
    """
    site = settings.sites[name]
    said = site.kubernetes
    try:
        cluster = Cluster(str(said.kubeconfig or ""), said.context)
    except (ConfigException, OSError) as error:
        raise BadConfig(f"sites.{name}.kubernetes: no way into the cluster: {error}") from error
    return KubernetesRunner(
        cluster,
        PodSettings(
            namespace=said.namespace,
            instance=said.instance,
            agent_image=said.agent_image,
            notebook_image=said.notebook_image,
            python=said.python,
            user=said.user,
            group=said.group,
            gpu_resource=said.gpu_resource,
            staging_seconds=said.staging_seconds,
            kept_seconds=said.kept_seconds,
            queue=said.queue,
            priority_class=said.priority_class,
            runtime_class=said.runtime_class,
            pull_secret=said.pull_secret,
            node_selector=said.node_selector,
            tolerations=(*said.tolerations, *_patience(site.lost_after)),
        ),
        site.relist_seconds,
    )


def _patience(seconds: float) -> tuple[Mapping[str, Any], ...]:
    """How long a pod stays whose node does not answer; a cluster's own word is five minutes."""
    return tuple(
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": int(seconds),
        }
        for trouble in ("unreachable", "not-ready")
    )
