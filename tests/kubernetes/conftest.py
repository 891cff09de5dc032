"""One `up` for all tests of a run, with a namespace of its own on the shared cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import images, keys
from tests.cluster.cluster import Cluster
from tests.cluster.layout import REGISTRY
from tests.kubernetes.site import Site
from tests.kubernetes.sources import Sources, serving
from tests.up_process import running_up
from tests.waiting import PATIENCE


@pytest.fixture(scope="session")
def sources(cluster: Cluster) -> Iterator[Sources]:
    """What jobs reach on this machine."""
    with serving(cluster.layout.host_ip) as sources:
        yield sources


@pytest.fixture(scope="session")
def site(cluster: Cluster, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with one site, the cluster."""
    cluster.import_image(images.agent_image())
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        environment = {
            "UWS_WEB__HOST": cluster.layout.host_ip,
            "UWS_AUTH__ANONYMOUS": "anywhere",
            "UWS_TEMPLATES__DIRECTORIES": json.dumps([str(Path(__file__).parent / "templates")]),
            "UWS_SITES": json.dumps(
                {
                    "cluster": {
                        "runner": "kubernetes",
                        "kubernetes": {
                            "kubeconfig": str(cluster.kubeconfig),
                            "namespace": namespace,
                            "agent_image": "localhost/agent:1",
                            "pull_secret": "registry",
                            "architecture": images.ARCHITECTURE,
                            "registries": {
                                REGISTRY: {
                                    "url": f"https://{cluster.layout.node_ip(1)}:5000",
                                    "ca_file": str(keys.directory(cluster.layout) / "ca.crt"),
                                }
                            },
                        },
                    }
                }
            ),
        }
        with running_up(tmp_path_factory.mktemp("up") / "data", environment=environment) as up:
            yield Site(up, cluster, namespace, sources)


COUNT = r"""
#include <stdio.h>
int main(int count, char **words)
{
    FILE *file = fopen(words[count - 1], "w");
    if (!file)
        return 1;
    fputs("one\n", file);
    puts("two");
    return fclose(file);
}
"""


@pytest.fixture(scope="session")
def static_image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with one static program, ``/count FILE``, and nothing else."""
    directory = tmp_path_factory.mktemp("static")
    (directory / "count.c").write_text(COUNT)
    compiled = ["musl-gcc", "-static", "-O1", "-o", str(directory / "count"), str(directory / "count.c")]
    subprocess.run(compiled, check=True, timeout=PATIENCE)
    images.program_image("localhost/count:1", directory / "count", directory / "count.tar")
    cluster.import_image(directory / "count.tar")
    return "localhost/count:1"
