"""Jobs that name an image and nothing else: the cluster's registry is asked what it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.cluster import images
from tests.cluster.layout import REGISTRY
from tests.kubernetes.site import Site
from tests.waiting import PATIENCE

pytestmark = pytest.mark.covers("4:any-image")

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words)
{
    char path[4096], here[4096];
    snprintf(path, sizeof path, "%s/words.txt", getenv("UWS_OUTPUTS"));
    FILE *file = fopen(path, "w");
    if (!file || !getcwd(here, sizeof here))
        return 1;
    fprintf(file, "%s\n", here);
    for (int n = 1; n < count; n++)
        fprintf(file, "%s\n", words[n]);
    return fclose(file);
}
"""


@pytest.fixture(scope="module")
def pushed(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of one static program in the cluster's registry, which wants a login; no node has it."""
    directory = tmp_path_factory.mktemp("own")
    root = directory / "root"
    (root / "there").mkdir(parents=True)
    (directory / "words.c").write_text(PROGRAM)
    compiled = ["musl-gcc", "-static", "-O1", "-o", str(root / "words"), str(directory / "words.c")]
    subprocess.run(compiled, check=True, timeout=PATIENCE)
    config = {"Entrypoint": ["/words", "$(HOME)"], "Cmd": ["{inputs}", "a b"], "WorkingDir": "/there"}
    name = "localhost/own-words:1"
    images.pack(name, [root], directory / "words.tar", config)
    return push(site, name, directory / "words.tar")


def push(site: Site, name: str, archive: Path) -> str:
    """An image's name in the cluster's registry, where alone it is."""
    site.cluster.import_image(archive)
    node = site.cluster.node(1)
    try:
        return site.cluster.push_image(name, f"{site.namespace}/{name.partition('/')[2]}")
    finally:
        for one in site.cluster.nodes():
            one.inside(
                "ctr", "--address", str(node.containerd), "-n", "k8s.io", "images", "rm", "--sync", name
            )


def run(site: Site, image: str) -> str:
    """Submit an image to the service of any images; the job's URL."""
    words = {"PHASE": "RUN", "image": image, "CPU": "0.1", "MEMORY": "64MiB", "DISK": "16MiB"}
    answer = site.jobs.ask("/container/async", urlencode(words).encode())
    assert answer.status == 200, answer.text
    return answer.url


def test_an_image_without_a_shell_runs_by_its_name_alone(site: Site, pushed: str) -> None:
    site.cluster.pull_secret(site.namespace)
    try:
        job = run(site, pushed)
        pod = site.pod(job)
        seen = site.ended(job, "COMPLETED")
        assert site.result(job, "result") == b"/there\n$(HOME)\n{inputs}\na b\n"
        (name,) = [one["image"] for one in pod["spec"]["containers"]]
        assert name.startswith(f"{pushed.rpartition(':')[0]}@sha256:")
        assert seen["image"] == name
        site.clear(job, starts={})
    finally:
        site.api.call("DELETE", site.path("secrets", "registry"))


@pytest.mark.long
def test_without_the_login_the_job_fails_with_the_registrys_word(site: Site) -> None:
    job = run(site, f"{REGISTRY}/never/asked:1")
    message = site.ended(job, "ERROR")["errorSummary"]["message"]
    assert f"the registry {REGISTRY} answers 401" in message
    assert message.endswith("Give a command.")
    site.clear(job, starts={})


@pytest.mark.long
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (f"{REGISTRY}/none/such:1", "answers 404"),
        ("elsewhere.example/stars:1", "do not list elsewhere.example"),
        ("stars:1", "it names no registry"),
    ],
)
def test_what_cannot_be_asked_says_what_to_do(site: Site, image: str, words: str) -> None:
    site.cluster.pull_secret(site.namespace)
    try:
        job = run(site, image)
        message = site.ended(job, "ERROR")["errorSummary"]["message"]
        assert words in message
        assert message.endswith("Give a command.")
        site.clear(job, starts={})
    finally:
        site.api.call("DELETE", site.path("secrets", "registry"))
