"""What keeps a job from starting is told while it waits, and when it is over the job starts by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.layout import REGISTRY
from tests.kubernetes.site import Site
from tests.waiting import PATIENCE


def given_up(site: Site, job: str) -> None:
    """It is still in line; its user gives it up."""
    seen = site.look(job)
    assert seen["phase"] == "QUEUED"
    assert seen["errorSummary"] is None
    site.abort(job)
    site.ended(job, "ABORTED")
    site.clear(job, {})


def completed(site: Site, job: str, seconds: float = PATIENCE) -> None:
    """What it waited for is there: it runs, in its first attempt."""
    seen = site.ended(job, "COMPLETED", seconds)
    assert seen["attempt"] == 1
    site.clear(job)


@contextmanager
def object_there(site: Site, kind: str, spec: dict[str, Any]) -> Iterator[None]:
    """An object in the site's namespace, for a while."""
    meta = {"name": f"test-{kind.lower()}", "namespace": site.namespace}
    site.cluster.create({"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": spec})
    try:
        yield
    finally:
        site.api.call("DELETE", site.path(f"{kind.lower()}s", meta["name"]))


@pytest.mark.covers("4:fault-image")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("localhost/no-such-image:1", "the image localhost/no-such-image:1 cannot be pulled"),
        pytest.param("No Image!", "the image No Image! cannot be pulled", marks=pytest.mark.long),
    ],
)
def test_an_image_that_cannot_be_had_is_named(site: Site, image: str, words: str) -> None:
    job = site.shell("echo never", image=image)
    site.reason(job, words)
    assert words in site.jobs.ask(job).text  # the job info of the XML
    given_up(site, job)


@pytest.mark.covers("4:fault-image")
@pytest.mark.long
def test_a_registry_that_refuses_is_quoted_and_the_right_secret_cures_it(site: Site) -> None:
    image = site.cluster.push_image("localhost/busybox:1", f"{site.namespace}/locked:1")
    site.cluster.pull_secret(site.namespace, password="guessed")
    try:
        job = site.shell("echo in", image=image)
        seen = site.reason(job, f"the image {image} cannot be pulled")
        assert "401 Unauthorized" in site.reason(job, "401 Unauthorized")["reason"]
        assert seen["phase"] == "QUEUED"
        site.api.call("DELETE", site.path("secrets", "registry"))
        site.cluster.pull_secret(site.namespace)
        completed(site, job, 300)
    finally:
        site.api.call("DELETE", site.path("secrets", "registry"))
    assert REGISTRY in image


@pytest.mark.covers("4:fault-unschedulable")
def test_what_no_node_has_is_named(site: Site) -> None:
    job = site.shell("echo never", CPU=500)
    seen = site.reason(job, "waiting for a node:")
    assert "Insufficient cpu" in seen["reason"]
    given_up(site, job)


@pytest.mark.covers("4:fault-quota")
def test_a_quota_on_pods_is_quoted(site: Site) -> None:
    with object_there(site, "ResourceQuota", {"hard": {"pods": "0"}}):
        job = site.shell("echo in")
        seen = site.reason(job, "the cluster makes no pod for it:")
        assert "exceeded quota" in seen["reason"]
        assert site.pods(job) == []
        given_up(site, job)


@pytest.mark.covers("4:fault-quota")
@pytest.mark.long
@pytest.mark.parametrize(
    ("hard", "words"),
    [
        ({"pods": "0"}, "the cluster makes no pod for it:"),
        ({"count/jobs.batch": "0"}, "takes no job just now"),
    ],
)
def test_a_job_starts_by_itself_when_there_is_room_in_the_quota(
    site: Site, hard: dict[str, str], words: str
) -> None:
    with object_there(site, "ResourceQuota", {"hard": hard}):
        job = site.shell("echo in")
        assert "exceeded quota" in site.reason(job, words)["reason"]
        assert site.look(job)["phase"] == "QUEUED"
    completed(site, job, 300)


@pytest.mark.covers("4:fault-quota")
@pytest.mark.long
def test_a_limit_on_each_container_is_quoted(site: Site) -> None:
    with object_there(site, "LimitRange", {"limits": [{"type": "Container", "max": {"memory": "300Mi"}}]}):
        job = site.shell("echo never", MEMORY="400 MiB")
        assert "maximum memory usage per Container is 300Mi" in site.reason(job, "makes no pod")["reason"]
        given_up(site, job)


@pytest.mark.covers("4:fault-invalid")
def test_a_job_that_the_cluster_can_never_take_fails_with_its_words(site: Site) -> None:
    job = site.shell("echo never", image=" localhost/busybox:1")
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"] == (
        "The cluster refuses the job's pod: spec.containers[0].image: "
        'Invalid value: " localhost/busybox:1": must not have leading or trailing whitespace'
    )
    site.clear(job, {})
