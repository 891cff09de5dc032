"""The README's way to a cluster of one's own, typed: the demo's jobs run there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scripts import demo
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.readme import BLOCKS, serving_block
from tests.s3_servers import versitygw
from uws_server import __version__

PREFIX = "registry.example/team/"


@pytest.mark.covers("4:readme")
def test_the_demo_s_jobs_run_in_a_cluster_of_one_s_own(
    cluster: Cluster, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for archive, name in ((images.agent_image(), "agent"), (images.notebook_image(), "notebook")):
        cluster.import_image(archive)
        cluster.tag_image(f"localhost/{name}:1", f"{PREFIX}uws-{name}:{__version__}")
    (checkout / "s3").mkdir()
    with versitygw(checkout / "s3", cluster.layout.host_ip) as store:
        own = {
            "192.0.2.7": cluster.layout.host_ip,
            "s3://results/uws": f"s3://{store.bucket().name}/uws",
            "AWS_ACCESS_KEY_ID=…": f"AWS_ACCESS_KEY_ID={store.key.id}",
            "AWS_SECRET_ACCESS_KEY=…": f"AWS_SECRET_ACCESS_KEY={store.key.secret}",
        }
        environment = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{cluster.programs}:{os.environ['PATH']}",
            "UWS_OBJECTS__ENDPOINT": store.endpoint,
        }
        try:
            with serving_block("cluster", checkout, own, **environment) as url:
                program, *words = BLOCKS["cluster-demo"].replace("http://192.0.2.7:8080", url).split()
                assert (program, url in words) == ("scripts/demo", True)
                code = demo.main([*words, "--results", str(checkout / "results")])
        finally:
            cluster.kubectl("delete", "namespace", "uws-jobs", "--ignore-not-found", seconds=120)
    assert code == 0, capsys.readouterr()
    manifest = json.loads((checkout / "results" / "R" / "manifest.json").read_text())
    assert {result["id"] for result in manifest["results"]} >= {"period", "table", "figure", "notebook"}
