"""Abort and delete, whatever a job is at just then: it ends, and nothing of it is left."""

from __future__ import annotations

import os
import signal

import pytest

from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.runner import KubernetesRunner
from tests.kubernetes.site import Site, container_is, id_of
from tests.waiting import until

SMALL = "localhost/busybox:1"
ENDINGS = ["abort", "delete"]


def end(site: Site, job: str, how: str) -> None:
    """Abort or delete it; it can be asked about at once."""
    if how == "abort":
        site.abort(job)
    else:
        site.delete(job)
        assert site.jobs.ask(job).status == 404


def ended(site: Site, job: str, how: str, starts: dict[int, int]) -> None:
    """It has ended for good, its code has started so often, and nothing is left."""
    if how == "abort":
        seen = site.ended(job, "ABORTED")
        assert seen["errorSummary"] is None
    site.clear(job, starts)


@pytest.mark.covers("4:fault-stop")
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.long
def test_a_job_that_waits_for_a_node_is_ended(site: Site, how: str) -> None:
    job = site.shell("echo never", CPU=500)
    site.reason(job, "waiting for a node:")
    end(site, job, how)
    ended(site, job, how, {})


@pytest.mark.covers("4:fault-stop")
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.serial
@pytest.mark.long
def test_a_job_whose_image_is_being_pulled_is_ended(site: Site, how: str) -> None:
    image = site.cluster.push_image(SMALL, f"{site.namespace}/{how}:1")
    site.cluster.pull_secret(site.namespace)
    node = site.cluster.node(1)
    node.send("registry", signal.SIGSTOP)
    try:
        job = site.shell("echo never", image=image)
        site.reason(job, "pulling the image on node1")
        end(site, job, how)
        ended(site, job, how, {})
    finally:
        node.send("registry", signal.SIGCONT)
        site.api.call("DELETE", site.path("secrets", "registry"))


@pytest.mark.covers("4:fault-stop")
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.long
def test_a_job_whose_inputs_are_being_fetched_is_ended(site: Site, how: str) -> None:
    path = f"/gated/staging-{how}"
    job = site.shell("echo never", input=site.sources.url + path)
    site.until(job, lambda _: site.sources.asked[path] > 0, "the fetching")
    assert site.look(job)["phase"] == "QUEUED"
    end(site, job, how)
    ended(site, job, how, {})


@pytest.mark.covers("4:fault-stop")
@pytest.mark.parametrize("how", ENDINGS)
def test_a_job_that_runs_is_ended(site: Site, how: str) -> None:
    job = site.shell("echo half > $UWS_OUTPUTS/half.txt; echo begun; sleep 600")
    site.reach(job, "EXECUTING")
    end(site, job, how)
    if how == "abort":
        site.ended(job, "ABORTED")
        assert site.result(job, "result") == b"half\n"
        assert site.result(job, "stdout") == b"begun\n"
    ended(site, job, how, {1: 1})


@pytest.mark.covers("4:fault-stop")
@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.long
def test_a_job_whose_results_are_being_stored_is_ended(site: Site, how: str) -> None:
    name = f"uploading-{how}"
    script = f"echo whole > $UWS_OUTPUTS/whole.txt; wget -q -O /dev/null {site.sources.url}/gated/{name}"
    job = site.shell(script)
    site.reach(job, "EXECUTING")
    site.send(job, "agent", "STOP")
    site.sources.gates[name].set()
    site.pod(job, container_is("terminated", "main"))
    end(site, job, how)
    site.send(job, "agent", "CONT")
    if how == "abort":
        site.ended(job, "ABORTED")
        assert site.result(job, "result") == b"whole\n"
    ended(site, job, how, {1: 1})


@pytest.mark.covers("4:fault-stop")
@pytest.mark.long
def test_jobs_that_are_ended_at_any_moment_leave_nothing(site: Site) -> None:
    jobs = [site.shell("sleep 600") for _ in range(8)]
    for number, job in enumerate(jobs):
        end(site, job, ENDINGS[number % 2])
    for number, job in enumerate(jobs):
        if ENDINGS[number % 2] == "abort":
            site.ended(job, "ABORTED")
        started = site.starts(job)
        assert started in ({}, {1: 1}), id_of(job)
        site.clear(job, started)


@pytest.mark.covers("4:fault-stop")
def test_a_job_that_only_holds_a_name_goes_although_it_never_finishes(site: Site) -> None:
    """As when a worker that was paused asks for the stop of what has ended and is forgotten."""
    job = site.shell("true")
    site.ended(job, "COMPLETED")
    until(lambda: not site.in_cluster(job), lambda: f"the end of {site.in_cluster(job)}")
    late = KubernetesRunner(site.api, PodSettings(site.namespace, "uws-server", "", ""))
    watcher = site.up.roles()["watch"]
    os.kill(watcher, signal.SIGSTOP)
    try:
        late.stop(id_of(job), 1)
        (stone,) = site.in_cluster(job)
    finally:
        os.kill(watcher, signal.SIGCONT)
    assert stone.startswith("/apis/batch/v1/")
    site.clear(job)
