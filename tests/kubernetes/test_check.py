"""`uws-server check` on a real cluster: what is right, what is wrong and what to do; nothing is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runners.kubernetes.cluster import Cluster as Api
from runners.kubernetes.examination import examine
from tests.cluster import keys
from tests.cluster.cluster import Cluster
from tests.cluster.layout import REGISTRY
from uws_server.findings import Finding, Grade
from uws_server.settings import Settings

pytestmark = pytest.mark.covers("4:check")

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def examined(cluster: Cluster, namespace: str, **more: Any) -> list[Finding]:
    """What is said of a site in a namespace."""
    said = {
        "kubeconfig": str(cluster.kubeconfig),
        "namespace": namespace,
        "agent_image": "localhost/agent:1",
        "agent_url": f"http://{cluster.layout.host_ip}:1",
        **more,
    }
    site = {"runner": "kubernetes", "kubernetes": said}
    return list(examine(Settings.model_validate({"sites": {"far": site}}), "far"))


def said(findings: list[Finding], grade: Grade) -> list[str]:
    """The sentences of a grade, but that of the agents' way, where nobody listens."""
    return [one.sentence for one in findings if one.grade is grade and one.subject != "agents at far"]


def registries(cluster: Cluster) -> dict[str, Any]:
    """The cluster's registry, as settings have it."""
    ca_file = str(keys.directory(cluster.layout) / "ca.crt")
    return {REGISTRY: {"url": f"https://{cluster.layout.node_ip(1)}:5000", "ca_file": ca_file}}


def test_of_a_site_that_is_right_nothing_else_is_said_and_nothing_made(cluster: Cluster) -> None:
    with cluster.namespace(RESTRICTED) as namespace:
        cluster.pull_secret(namespace)
        found = examined(
            cluster,
            namespace,
            pull_secret="registry",
            priority_class="system-cluster-critical",
            registries=registries(cluster),
        )
        assert said(found, Grade.BROKEN) == said(found, Grade.WEAK) == []
        sentences = said(found, Grade.GOOD)
        assert any("answers, of Kubernetes v1." in words for words in sentences)
        assert "It takes a job, by a dry run." in sentences
        assert "It takes a pod of a job, by a dry run." in sentences
        assert sentences[-1] == "It answers, and lets us in."
        assert cluster.kubectl("-n", namespace, "get", "jobs,pods", "--output=name") == ""


def test_what_is_wrong_in_the_settings_is_said_with_key_and_value(cluster: Cluster, namespace: str) -> None:
    named = {
        "priority_class": "urgent",
        "runtime_class": "gvisor",
        "queue": "science",
        "pull_secret": "registry",
    }
    broken = said(examined(cluster, namespace, **named), Grade.BROKEN)
    for key, value in named.items():
        assert any(f"sites.far.kubernetes.{key} is {value!r}, and " in words for words in broken), key
    (of_pod,) = [words for words in broken if words.startswith("it takes no pod of a job: ")]
    assert "no PriorityClass with name urgent was found" in of_pod
    (nowhere,) = said(examined(cluster, f"{namespace}-none"), Grade.BROKEN)
    assert nowhere.startswith(f"there is no namespace {namespace}-none: make it, ")


def test_a_wrong_login_is_the_registrys_word(cluster: Cluster, namespace: str) -> None:
    cluster.pull_secret(namespace, password="guessed")
    found = examined(cluster, namespace, pull_secret="registry", registries=registries(cluster))
    (sentence,) = said(found, Grade.BROKEN)
    assert f"the registry {REGISTRY} answers 401" in sentence
    assert "guessed" not in sentence


def test_rules_of_the_namespace_are_met_before_the_first_job(cluster: Cluster, namespace: str) -> None:
    rule = {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]}
    made = {"apiVersion": "v1", "metadata": {"name": "rule", "namespace": namespace}}
    cluster.create({**made, "kind": "LimitRange", "spec": rule})
    (sentence,) = said(examined(cluster, namespace), Grade.BROKEN)
    assert sentence.startswith("it takes no pod of a job: ")
    assert "maximum memory usage per Container is 32Mi" in sentence
    cluster.kubectl("-n", namespace, "delete", "limitrange", "rule")
    cluster.create({**made, "kind": "ResourceQuota", "spec": {"hard": {"pods": "0"}}})
    (sentence,) = said(examined(cluster, namespace), Grade.WEAK)
    assert sentence.startswith("it has no room for a pod of a job just now: ")


@pytest.mark.parametrize("verbs", [[], ["create", "delete", "get", "list", "patch", "watch"]])
def test_an_account_is_told_what_it_may_not(
    cluster: Cluster, namespace: str, tmp_path: Path, verbs: list[str]
) -> None:
    cluster.kubectl("-n", namespace, "create", "serviceaccount", "poor")
    if verbs:
        words = (
            "create",
            "role",
            "poor",
            *(f"--verb={verb}" for verb in verbs),
            "--resource=jobs,pods,events",
        )
        cluster.kubectl("-n", namespace, *words)
        bound = ("--role=poor", f"--serviceaccount={namespace}:poor")
        cluster.kubectl("-n", namespace, "create", "rolebinding", "poor", *bound)
    token = cluster.kubectl("-n", namespace, "create", "token", "poor").strip()
    document = json.loads(cluster.kubeconfig.read_text())
    document["users"] = [{"name": document["users"][0]["name"], "user": {"token": token}}]
    file = tmp_path / "poor.kubeconfig"
    file.write_text(json.dumps(document))
    found = examined(cluster, namespace, kubeconfig=str(file), pull_secret="registry", runtime_class="gvisor")
    assert "sites.far.kubernetes.runtime_class, 'gvisor', was not checked: no right to look" in said(
        found, Grade.WEAK
    )
    assert "sites.far.kubernetes.pull_secret, 'registry', was not checked: no right to look" in said(
        found, Grade.WEAK
    )
    broken = said(found, Grade.BROKEN)
    if verbs:
        (sentence,) = broken  # the dry run sees what may not be looked at
        assert 'RuntimeClass "gvisor" not found' in sentence
        return
    assert any(f"may not create jobs in the namespace {namespace}" in words for words in broken)
    assert any("delete jobs, list jobs, watch jobs, list pods" in words for words in broken)


def test_a_cluster_whose_authority_is_another_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    document = json.loads(cluster.kubeconfig.read_text())
    document["clusters"][0]["cluster"].pop("certificate-authority-data", None)
    document["clusters"][0]["cluster"].pop("certificate-authority", None)
    file = tmp_path / "other.kubeconfig"
    file.write_text(json.dumps(document))
    found = examined(cluster, "default", kubeconfig=str(file))
    (sentence,) = said(found, Grade.BROKEN)
    assert "certificate verify failed" in sentence
    assert Api(str(cluster.kubeconfig)).server in sentence
