"""The Kubernetes runner from the settings of a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.config import ConfigException

from runners.base import Busy, NotYet, Unreachable
from runners.kubernetes.cluster import ApiRefusal, Cluster
from runners.kubernetes.logins import Login, login
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.reference import Reference
from runners.kubernetes.registry import Images, Registry
from runners.kubernetes.runner import KubernetesRunner
from uws_server.config_file import BadConfig
from uws_server.settings import Settings

_NOT_FOUND = 404


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
    cluster = open_cluster(settings, name)
    return KubernetesRunner(
        cluster,
        pod_settings(settings, name),
        settings.sites[name].relist_seconds,
        images(settings, name, cluster),
    )


def open_cluster(settings: Settings, name: str) -> Cluster:
    """The cluster of one site.

    :raises BadConfig: there is no such kubeconfig or context.
    """
    said = settings.sites[name].kubernetes
    try:
        return Cluster(str(said.kubeconfig or ""), said.context)
    except (ConfigException, OSError) as error:
        raise BadConfig(f"sites.{name}.kubernetes: no way into the cluster: {error}") from error


def pod_settings(settings: Settings, name: str) -> PodSettings:
    """What one site says of its pods."""
    site = settings.sites[name]
    said = site.kubernetes
    return PodSettings(
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
    )


def images(settings: Settings, name: str, cluster: Cluster) -> Images:
    """The images of the registries that one site may ask."""
    said = settings.sites[name].kubernetes
    return Images(
        {host: Registry(one.url, one.ca_file) for host, one in said.registries.items()},
        said.default_registry,
        said.architecture,
        lambda image: _login(cluster, said.namespace, said.pull_secret, image),
    )


def _login(cluster: Cluster, namespace: str, secret: str, image: Reference) -> Login | None:
    """Who pulls an image: the pods' pull secret is read when a registry wants to know, and not kept.

    :raises NotYet: it cannot be read, which an operator has to mend: what needs no login can be started.
    :raises Busy: the API server does not answer.
    """
    if not secret:
        return None
    try:
        document = cluster.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{secret}")
        return login(document, image)
    except ApiRefusal as error:
        if error.status == _NOT_FOUND:  # nor do pods mind
            return None
        raise NotYet(f"the pull secret {secret} cannot be read: {error}") from error
    except ValueError as error:
        raise NotYet(f"the pull secret {secret} cannot be read: {error}") from error
    except Unreachable as error:
        raise Busy(str(error)) from error


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
