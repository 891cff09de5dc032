"""What a cluster says of an attempt → what became of it, held against what a real cluster said.

Each file of `tests/golden/pods`, made by `tests/kubernetes/record.py`, has the Jobs, pods and refusals of one
attempt as they were sent; `node-low-on-disk` is `disk` with the words for a node that others filled.
What follows from each stands in `seen.json`, which `UPDATE_GOLDEN=1` writes anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runners.base import Cause, Observation, State
from runners.kubernetes import manifest, seen
from runners.kubernetes.diagnose import AgentsWord, diagnose
from runners.kubernetes.seen import Container, Job, Pod
from uws_server.domain.wire import FENCED, STAGE_OUT_FAILED

GOLDEN = Path(__file__).parents[1] / "golden" / "pods"
CASES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))
SEEN = GOLDEN / "seen.json"
pytestmark = pytest.mark.covers("4:diagnose")


def heard(case: str) -> list[Observation]:
    """What is observed after each piece of news, as often as it changes."""
    job: Job | None = None
    pods: dict[str, Pod] = {}
    refused = ""
    observed: list[Observation] = []
    for line in (GOLDEN / f"{case}.jsonl").read_text().splitlines():
        kind, document = json.loads(line)
        uid = document["metadata"]["uid"]
        if "involvedObject" in document:
            refused = document["message"]
        elif "template" in document["spec"]:
            job = replace(seen.job(document), over="Failed") if kind == "DELETED" else seen.job(document)
        elif kind == "DELETED" and not seen.pod(document).over:
            del pods[uid]
        else:
            pods[uid] = seen.pod(document)
        if job is not None:
            observation = diagnose(job, list(pods.values()), refused)
            if not observed or observed[-1] != observation:
                observed.append(observation)
    return observed


def told(observation: Observation) -> dict[str, Any]:
    """An observation in the words of `seen.json`."""
    said: dict[str, Any] = {"state": observation.state.value}
    said |= {"reason": observation.reason} if observation.reason else {}
    said |= {"image": observation.image} if observation.image else {}
    said |= {"started": observation.started} if observation.started else {}
    said |= {"ended": observation.ended} if observation.ended else {}
    outcome = observation.outcome
    if outcome is not None:
        said |= {
            "cause": outcome.cause.value,
            "message": outcome.message,
            "detail": outcome.detail,
            "exit_code": outcome.exit_code,
            "transient": outcome.transient,
        }
    return said


def test_what_became_of_every_recorded_attempt_is_the_golden_word() -> None:
    text = json.dumps({case: [told(one) for one in heard(case)] for case in CASES}, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        SEEN.write_text(text)
    assert text == SEEN.read_text()


@pytest.mark.parametrize("case", CASES)
def test_an_attempt_never_goes_back_to_before_its_end(case: str) -> None:
    states = [one.state for one in heard(case)]
    over = [state in (State.ENDED, State.LOST) for state in states]
    assert over == sorted(over)


CAUSES = {
    "agent-killed-at-the-end": (Cause.STAGE_OUT, True),
    "completed": (Cause.SUCCEEDED, False),
    "disk": (Cause.OUT_OF_DISK, False),
    "disk-last": (Cause.OUT_OF_DISK, False),
    "drained": (Cause.LOST, True),
    "exit": (Cause.FAILED, False),
    "memory": (Cause.OUT_OF_MEMORY, False),
    "memory-of-a-child": (Cause.OUT_OF_MEMORY, False),
    "node-low-on-disk": (Cause.LOST, True),
    "no-input": (Cause.STAGE_IN, False),
    "no-program": (Cause.FAILED, False),
    "pod-deleted": (Cause.LOST, True),
    "refused-pod": (Cause.REFUSED, False),
    "stopped": (Cause.STOPPED, False),
    "too-long": (Cause.TIMED_OUT, False),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_of_an_end(case: str) -> None:
    outcome = next(one.outcome for one in heard(case) if one.outcome)
    assert (outcome.cause, outcome.transient) == CAUSES[case]


JOB = Job("j", 1, "u", "1", False, False, "", "", 64 * 1024**2, 10, "image")
RUNNING, DONE = Container("running", started=1000), Container("terminated", "Completed", "", 0, 1000, 2000)
POD = Pod("p", "2026", "Running", "", "", "node1", False, "", "", RUNNING, RUNNING, "")


def ended(agent: Container, main: Container, **changes: Any) -> Observation:
    """What becomes of an attempt whose pod has ended so."""
    return diagnose(JOB, [replace(POD, phase="Succeeded", agent=agent, main=main, **changes)])


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ('Usage of EmptyDir volume "work" exceeds the limit "16777216". ', Cause.OUT_OF_DISK),
        ('Container main exceeded its local ephemeral storage limit "16777216". ', Cause.OUT_OF_DISK),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 16777216. ",
            Cause.OUT_OF_DISK,
        ),
        ("The node was low on resource: ephemeral-storage. ", Cause.LOST),
        ("The node was low on resource: memory. ", Cause.LOST),
    ],
)
def test_an_eviction_is_the_jobs_fault_only_where_it_went_beyond_its_own_limit(
    message: str, cause: Cause
) -> None:
    outcome = ended(RUNNING, RUNNING, reason="Evicted", message=message).outcome
    assert outcome is not None
    assert outcome.cause is cause


def test_an_agent_that_needs_more_memory_than_it_has_will_do_so_again() -> None:
    outcome = ended(Container("terminated", "OOMKilled", "", 137, 1000, 2000), DONE).outcome
    assert outcome is not None
    assert (outcome.cause, outcome.transient) == (Cause.STAGE_OUT, False)
    assert "the agent needed more memory than the site gives it" in outcome.message


def test_what_user_code_could_have_written_does_not_make_it_run_too_long() -> None:
    word = json.dumps({"timed_out": True})
    outcome = ended(Container("terminated", "Completed", word, 0, 1000, 2000), DONE).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED


def test_a_second_pod_that_was_turned_away_does_not_hide_that_the_attempt_is_lost() -> None:
    first = replace(POD, phase="Failed", disrupted="DeletionByTaintManager", agent=DONE, main=DONE)
    away = Container("terminated", "Error", "", FENCED, 3000, 4000)
    second = replace(
        POD, uid="q", created="2027", phase="Failed", agent=away, main=replace(DONE, exit_code=125)
    )
    observation = diagnose(JOB, [first, second])
    assert observation.state is State.LOST
    assert observation.started is None


def test_nothing_is_said_to_have_ended_while_one_of_its_pods_may_run() -> None:
    first = replace(POD, phase="Failed", agent=DONE, main=DONE)
    assert diagnose(JOB, [first, replace(POD, uid="q", created="2027")]).state is State.RUNNING
    assert diagnose(JOB, [replace(first, created="2028"), POD]).state not in (State.ENDED, State.LOST)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unknown": 1}', "null", '"word"', '{"stage_in": "cut o'])
def test_a_last_word_that_cannot_be_read_says_nothing(text: str) -> None:
    assert AgentsWord.read(text) == AgentsWord()
    agent = Container("terminated", "Error", text, STAGE_OUT_FAILED, 1000, 2000)
    outcome = ended(agent, DONE).outcome
    assert outcome is not None
    assert outcome.cause is Cause.STAGE_OUT
    assert (
        outcome.message
        == f"The results could not be stored: the agent ended with exit code {STAGE_OUT_FAILED}."
    )


PULLS = {
    'Back-off pulling image "a/b:1": ErrImagePull: failed to pull and unpack image "a/b:1": '
    'failed to resolve reference "a/b:1": a/b:1: not found': "a/b:1: not found",
    'rpc error: code = Unknown desc = failed to resolve reference "a/b:1": 401 Unauthorized': (
        "401 Unauthorized"
    ),
    'Back-off pulling image "a/b:1"': 'Back-off pulling image "a/b:1"',
}


@pytest.mark.parametrize("message", PULLS)
def test_of_a_pull_that_fails_the_cause_is_said(message: str) -> None:
    main = Container("waiting", "ImagePullBackOff", message)
    observation = diagnose(JOB, [replace(POD, phase="Pending", main=main)])
    assert observation.reason == f"the image image cannot be pulled: {PULLS[message]}"


@pytest.mark.parametrize(
    ("text", "count"),
    [("64Mi", 64 * 1024**2), ("1.5Gi", 3 * 2**29), ("1G", 10**9), ("500k", 500_000), ("7", 7), ("x", 0)],
)
def test_a_limit_is_read_however_it_is_written(text: str, count: int) -> None:
    assert manifest.limits({"resources": {"limits": {"memory": text}}}) == (count, 0)


@pytest.mark.covers("4:manifest-proves")
def test_a_job_that_is_complete_has_run_to_its_end_though_its_pod_is_gone() -> None:
    observation = diagnose(replace(JOB, over="Complete", started=5000, ended=9000), [])
    assert (observation.state, observation.started, observation.ended) == (State.ENDED, 5000, 9000)
    assert observation.outcome is not None
    assert observation.outcome.cause is Cause.SUCCEEDED


def test_of_a_job_that_failed_nothing_more_is_known_when_its_pod_is_gone() -> None:
    observation = diagnose(replace(JOB, over="Failed", why="BackoffLimitExceeded"), [])
    assert observation.state is State.LOST


@pytest.mark.covers("4:fault-node")
@pytest.mark.parametrize(
    ("containers", "whole", "gates", "silent"),
    [
        ("True", "True", [], False),
        ("True", "False", [], True),  # so of a node whose kubelet was killed
        ("False", "False", [], False),  # so of a container that has ended or is not ready
        ("True", "False", [{"conditionType": "example/gate"}], False),  # somebody else's word is missing
    ],
)
def test_a_pod_that_the_cluster_took_its_readiness_back_from_has_a_silent_node(
    containers: str, whole: str, gates: list[dict[str, str]], silent: bool
) -> None:
    running = {"state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}}}
    document = {
        "metadata": {"uid": "p", "creationTimestamp": "2026-11-21T10:00:00Z"},
        "spec": {"nodeName": "node1", "readinessGates": gates},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": whole},
                {"type": "ContainersReady", "status": containers},
            ],
            "containerStatuses": [{"name": "main", **running}],
            "initContainerStatuses": [{"name": "agent", **running}],
        },
    }
    observation = diagnose(JOB, [seen.pod(document)])
    assert (observation.state, observation.silent) == (State.RUNNING, silent)


@pytest.mark.covers("4:any-image")
def test_a_pinned_image_is_told_by_the_name_it_was_given_once_the_node_has_it() -> None:
    pinned = replace(JOB, image="registry.example/mine@sha256:1")
    node = replace(POD, image="registry.example/of-another@sha256:1")
    assert diagnose(pinned, [POD]).image == ""
    assert diagnose(pinned, [node]).image == pinned.image
    assert diagnose(JOB, [node]).image == node.image


CPU = "0/2 nodes are available: 2 Insufficient cpu. "
CLOUD = "node.cloudprovider.kubernetes.io/uninitialized"
HOPELESS = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
DENIED = 'Error creating: pods "uws-1-1-" is forbidden: '


@pytest.mark.covers("4:pending-limit")
@pytest.mark.parametrize(
    ("unscheduled", "stuck"),
    [
        (f"{CPU}no new claims to deallocate, {HOPELESS}", True),
        (f"{CPU}preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.", False),
        (
            f"{CPU}preemption: 0/2 nodes are available: 1 No preemption victims found, 1 Preemption is not.",
            False,
        ),
        (f"0/2 nodes are available: 2 node(s) were unschedulable. {HOPELESS}", False),
        (
            f"{CPU}1 node(s) had untolerated taint {{node.kubernetes.io/not-ready: }}. {HOPELESS}",
            False,
        ),
        (f"0/1 nodes are available: 1 node(s) had untolerated taint {{{CLOUD}: true}}. {HOPELESS}", False),
        ("no nodes available to schedule pods", False),
    ],
)
def test_a_node_is_waited_for_in_vain_where_none_that_is_up_could_ever_have_the_pod(
    unscheduled: str, stuck: bool
) -> None:
    pod = replace(POD, phase="Pending", node="", main=Container(), agent=Container(), unscheduled=unscheduled)
    assert diagnose(JOB, [pod]).stuck is stuck


@pytest.mark.covers("4:pending-limit")
@pytest.mark.parametrize(
    ("reason", "message", "stuck"),
    [
        ("ErrImagePull", 'failed to resolve reference "a/b:1": a/b:1: not found', True),
        ("ImagePullBackOff", 'Back-off pulling image "a/b:1": ErrImagePull: 401 Unauthorized', True),
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization", True),
        ("ErrImagePull", 'Head "http://a/v2/forbidden/manifests/1": connect: connection refused', False),
        ("ErrImagePull", "unexpected status code 503 Service Unavailable", False),
        ("ErrImagePull", "429 Too Many Requests", False),
        ("ErrImagePull", "dial tcp: lookup registry.example: no such host", False),
        ("ImagePullBackOff", 'Back-off pulling image "a/forbidden:1"', None),
        ("ImagePullBackOff", "", None),
        ("InvalidImageName", 'Failed to apply default image tag "No Image!"', True),
        ("CreateContainerConfigError", 'secret "keys" not found', True),
        ("CreateContainerError", "context deadline exceeded", False),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for it", False),
        ("CreateContainerConfigError", "services have not yet been read at least once", False),
        ("ErrImagePull", "dial unix /run/containerd/containerd.sock: connect: permission denied", False),
        ("ErrImagePull", "missing parent sha256:0 bucket: not found", False),
        ("ErrImagePull", "a/denied:1: unexpected status: 503 Service Unavailable", False),
        ("PodInitializing", "", False),
    ],
)
def test_an_image_is_waited_for_in_vain_where_its_registry_says_no(
    reason: str, message: str, stuck: bool | None
) -> None:
    waiting = Container("waiting", reason, message)
    assert diagnose(JOB, [replace(POD, phase="Pending", main=waiting)]).stuck is stuck
    assert diagnose(JOB, [replace(POD, phase="Pending", main=Container(), agent=waiting)]).stuck is stuck


@pytest.mark.covers("4:pending-limit")
@pytest.mark.parametrize(
    ("refused", "stuck"),
    [
        (f"{DENIED}maximum memory usage per Container is 300Mi, but limit is 419430400", True),
        (f"{DENIED}no PriorityClass with name urgent was found", True),
        (f"{DENIED}exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0", False),
        ('Error creating: Internal error occurred: failed calling webhook "w": timeout', False),
        ("", None),
    ],
)
def test_a_pod_is_waited_for_in_vain_where_the_namespace_forbids_it(refused: str, stuck: bool | None) -> None:
    assert diagnose(JOB, [], refused).stuck is stuck
    assert diagnose(replace(JOB, suspended=True), []).stuck is False
