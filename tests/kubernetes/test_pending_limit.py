"""With a pending limit a job fails for what it waits for in vain, and for nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.layout import REGISTRY
from tests.kubernetes.site import Site
from tests.kubernetes.sources import Sources
from tests.up_process import running_up
from tests.waiting import until

pytestmark = pytest.mark.covers("4:pending-limit")

LIMIT = 3
FAILED = f"The job could not start for {LIMIT} seconds, and waiting does not help: "


@pytest.fixture(scope="module")
def site(cluster: Cluster, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose site has a short pending limit."""
    cluster.import_image(images.agent_image())
    with cluster.namespace() as namespace:
        said = {
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "agent_image": "localhost/agent:1",
            # A second node that somebody keeps pods from might be had later, and nothing would be in vain.
            "node_selector": {"kubernetes.io/hostname": "node1"},
            "tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}],
        }
        environment = {
            "UWS_WEB__HOST": cluster.layout.host_ip,
            "UWS_AUTH__ANONYMOUS": "anywhere",
            "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(Path(__file__).parent / "templates")]),
            "UWS_SITES": json.dumps(
                {"cluster": {"runner": "kubernetes", "pending_limit": LIMIT, "kubernetes": said}}
            ),
        }
        with running_up(tmp_path_factory.mktemp("limited") / "data", environment=environment) as up:
            yield Site(up, cluster, namespace, sources)


def failed(site: Site, job: str, words: str) -> None:
    """The job has failed with these words, its code never ran, and nothing is left in the cluster."""
    error = site.ended(job, "ERROR")["errorSummary"]
    assert (error["type"], error["message"][: len(FAILED)]) == ("fatal", FAILED)
    assert words in error["message"]
    site.clear(job, {})


def test_what_no_node_could_ever_have_fails_also_when_the_watcher_dies_meanwhile(site: Site) -> None:
    job = site.shell("echo never", CPU=500)
    site.reason(job, "waiting for a node:")
    watcher = site.up.roles()["watch"]
    os.kill(watcher, signal.SIGKILL)
    until(lambda: site.up.roles().get("watch", watcher) != watcher, "another watcher")
    failed(site, job, "Insufficient cpu")


def test_an_image_that_its_registry_refuses_fails_and_a_quota_is_waited_for(site: Site) -> None:
    quota = {"metadata": {"name": "full", "namespace": site.namespace}, "spec": {"hard": {"memory": "350Mi"}}}
    site.cluster.create({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    waits = site.shell("echo never", MEMORY="200 MiB")
    site.reason(waits, "exceeded quota")
    refused = site.shell("echo never", image=f"{REGISTRY}/{site.namespace}/none:1")
    failed(site, refused, "cannot be pulled")  # it began to wait later than the other, and fitted
    assert site.look(waits)["phase"] == "QUEUED"
    site.abort(waits)
    site.ended(waits, "ABORTED")
    site.clear(waits, {})
