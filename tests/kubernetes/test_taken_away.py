"""The agent, the pod or the Job is taken away: at most one attempt is lost, and no code starts twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes.site import Site, container_is

# The first attempt waits to be taken away; the second one goes through.
TWICE = "echo half > $UWS_OUTPUTS/half.txt; echo attempt $UWS_ATTEMPT; [ $UWS_ATTEMPT != 1 ] || sleep 600"
TICKING = "for n in $(seq 10); do echo tick $n; sleep 0.2; done"
BOTH = {1: 1, 2: 1}


def second_attempt(site: Site, job: str) -> None:
    """It goes on as a second attempt, and ends well."""
    seen = site.ended(job, "COMPLETED")
    assert seen["attempt"] == 2
    assert seen["errorSummary"] is None
    assert seen["reason"] is None
    assert site.result(job, "stdout") == b"attempt 2\n"
    site.clear(job, BOTH)


@pytest.mark.covers("4:fault-agent")
def test_an_agent_that_is_killed_goes_on_where_it_was(site: Site) -> None:
    gate = "agent-killed"
    wait = f"wget -q -O /dev/null {site.sources.url}/gated/{gate}"
    job = site.shell(f"{TICKING}; {wait}; echo last; echo whole > $UWS_OUTPUTS/whole.txt")
    site.reach(job, "EXECUTING")
    site.send(job, "agent", "KILL")
    site.pod(job, container_is("running", "agent", restarts=1))
    site.sources.gates[gate].set()
    seen = site.ended(job, "COMPLETED")
    assert seen["attempt"] == 1
    assert site.result(job, "result") == b"whole\n"
    assert site.result(job, "stdout").decode() == "".join(f"tick {n}\n" for n in range(1, 11)) + "last\n"
    site.clear(job)


@pytest.mark.covers("4:fault-agent")
@pytest.mark.long
def test_an_agent_that_is_killed_while_fetching_fetches_again(site: Site) -> None:
    path = "/gated/killed-while-fetching"
    job = site.shell("cat $UWS_INPUTS/input/*", input=site.sources.url + path)
    site.until(job, lambda _: site.sources.asked[path] == 1, "the fetching")
    site.send(job, "agent", "KILL")
    site.until(job, lambda _: site.sources.asked[path] == 2, "another fetching")
    site.sources.gates["killed-while-fetching"].set()
    seen = site.ended(job, "COMPLETED")
    assert seen["attempt"] == 1
    site.clear(job)


# In the agent's control group, which is known by the memory controller's name or, in version 2, by none.
EATER = r"""
at=$(sed -n 's/^[0-9]*:\(.*,\)\{0,1\}memory:/memory/p; s/^0::\(.*kubepods\)/\1/p' /proc/$1/cgroup | head -1)
for p in "$@"; do echo 1000 > /proc/$p/oom_score_adj; done
echo $$ > /sys/fs/cgroup/$at/cgroup.procs
echo -500 > /proc/self/oom_score_adj
python3 -c 'x = bytearray(10**9)'
true
"""


def choose_for_memory(site: Site, job: str) -> None:
    """Have the kernel kill the agent's container for memory: ours is the process it takes first."""
    node = site.cluster.node(1)
    node.inside("sh", "-c", EATER, "sh", *map(str, site.processes(job, "agent")))


@pytest.mark.covers("4:fault-agent")
@pytest.mark.long
def test_an_agent_that_is_killed_for_memory_goes_on_where_it_was(site: Site) -> None:
    gate = "agent-oom"
    job = site.shell(f"echo one; wget -q -O /dev/null {site.sources.url}/gated/{gate}; echo two")
    site.reach(job, "EXECUTING")
    choose_for_memory(site, job)
    site.pod(job, container_is("running", "agent", restarts=1))
    site.sources.gates[gate].set()
    seen = site.ended(job, "COMPLETED")
    assert seen["attempt"] == 1
    assert site.result(job, "stdout") == b"one\ntwo\n"
    site.clear(job)


@pytest.mark.covers("4:fault-agent")
@pytest.mark.long
def test_an_agent_that_is_killed_while_it_stores_results_costs_an_attempt(site: Site) -> None:
    gate = "agent-killed-at-the-end"
    job = site.shell(
        "echo half > $UWS_OUTPUTS/half.txt; echo attempt $UWS_ATTEMPT; "
        f"[ $UWS_ATTEMPT != 1 ] || wget -q -O /dev/null {site.sources.url}/gated/{gate}"
    )
    site.reach(job, "EXECUTING")
    site.send(job, "agent", "STOP")
    site.sources.gates[gate].set()
    site.pod(job, container_is("terminated", "main"))
    site.send(job, "agent", "KILL")
    second_attempt(site, job)


@pytest.mark.covers("4:fault-pod")
def test_a_pod_that_is_deleted_costs_one_attempt(site: Site) -> None:
    job = site.shell(TWICE)
    site.reach(job, "EXECUTING")
    site.remove("pods", site.pod(job, container_is("running", "main"))["metadata"]["name"])
    seen = site.until(job, lambda seen: seen["attempt"] == 2, "a second attempt")
    assert seen["phase"] in ("EXECUTING", "COMPLETED")
    second_attempt(site, job)


@pytest.mark.covers("4:fault-pod")
@pytest.mark.long
def test_a_pod_that_is_deleted_at_once_costs_one_attempt(site: Site) -> None:
    job = site.shell(TWICE)
    site.reach(job, "EXECUTING")
    name = site.pod(job, container_is("running", "main"))["metadata"]["name"]
    site.cluster.kubectl("-n", site.namespace, "delete", "pod", name, "--grace-period=0", "--force")
    second_attempt(site, job)


@pytest.mark.covers("4:fault-pod")
@pytest.mark.long
def test_a_job_whose_pods_are_always_deleted_fails_as_one_that_may_be_tried_again(site: Site) -> None:
    job = site.shell("echo half > $UWS_OUTPUTS/half.txt; echo attempt $UWS_ATTEMPT; sleep 600")
    for attempt in (1, 2):
        site.until(job, lambda _: site.starts(job).get(attempt) == 1, f"attempt {attempt}")  # noqa: B023
        pod = site.pod(job, lambda pod: pod["metadata"]["labels"]["uws-server/attempt"] == str(attempt))  # noqa: B023
        site.remove("pods", pod["metadata"]["name"])
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"] == {
        "type": "transient",
        "message": "The job's pod was deleted while it ran.",
        "hasDetail": False,
    }
    assert site.result(job, "result") == b"half\n"
    assert site.result(job, "stdout") == b"attempt 2\n"
    site.clear(job, BOTH)


@pytest.mark.covers("4:fault-job")
def test_a_job_object_that_is_deleted_costs_one_attempt(site: Site) -> None:
    job = site.shell(TWICE)
    site.reach(job, "EXECUTING")
    (name,) = [found.split()[1] for found in site.in_cluster(job) if "/jobs" in found]
    site.remove("jobs", name)
    second_attempt(site, job)


@pytest.mark.covers("4:fault-job")
@pytest.mark.long
def test_a_job_object_that_is_deleted_before_it_has_a_pod_costs_one_attempt(site: Site) -> None:
    job = site.shell("echo never", CPU=500)
    site.reason(job, "waiting for a node:")
    (name,) = [found.split()[1] for found in site.in_cluster(job) if "/jobs" in found]
    site.remove("jobs", name)
    site.until(job, lambda seen: seen["attempt"] == 2, "a second attempt")
    site.abort(job)
    site.ended(job, "ABORTED")
    site.clear(job, {})


@pytest.mark.covers("4:fault-output-size")
@pytest.mark.long  # the kubelet looks at disks once a minute
def test_a_job_that_fills_its_disk_is_ended_and_told_so(site: Site) -> None:
    job = site.shell(
        "echo begun; cd $UWS_OUTPUTS; echo half > half.txt; head -c 90000000 /dev/zero > big.bin; sleep 600"
    )
    seen = site.ended(job, "ERROR", 300)
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"] == "The job wrote more to its disk than it asked for."
    assert seen["attempt"] == 1
    assert site.result(job, "result.half.txt") == b"half\n"
    assert site.result(job, "stdout") == b"begun\n"
    site.clear(job)


def evict(site: Site, pod: dict[str, Any]) -> None:
    """What a drain does to each pod of a node."""
    name = pod["metadata"]["name"]
    meta = {"name": name, "namespace": site.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    site.api.call("POST", site.path("pods", f"{name}/eviction"), eviction)


@pytest.mark.covers("4:fault-drain")
def test_a_job_that_is_drained_goes_on_as_another_attempt(site: Site) -> None:
    job = site.shell(TWICE)
    site.reach(job, "EXECUTING")
    evict(site, site.pod(job, container_is("running", "main")))
    second_attempt(site, job)


@pytest.mark.covers("4:fault-drain")
@pytest.mark.long
def test_a_job_that_is_drained_before_it_began_goes_on_as_the_same_attempt(site: Site) -> None:
    job = site.shell("echo attempt $UWS_ATTEMPT", CPU=500)
    site.reason(job, "waiting for a node:")
    first = site.pod(job)
    evict(site, first)
    site.pod(job, lambda pod: bool(pod["metadata"]["uid"] != first["metadata"]["uid"]))
    assert site.look(job)["attempt"] == 1
    site.abort(job)
    site.ended(job, "ABORTED")
    site.clear(job, {})
