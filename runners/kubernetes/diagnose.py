"""What the cluster says of an attempt → what became of it, in words a scientist understands. Pure.

The recorded documents of real pods and Jobs that the tests feed in are what this was written from. Reason and
exit code come from the containers' status; what the agent wrote as its termination message adds what the
kubelet cannot know. What user code could have written is never decisive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runners import ending
from runners.base import Cause, Observation, Outcome, State
from runners.kubernetes.seen import Container, Job, Pod
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED

_SECOND = 1000

_NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_ABOUT_PULLS = re.compile(
    r'Back-off pulling image "[^"]*": |ErrImagePull: |rpc error: code = \w+ desc = '
    r'|failed to (pull and unpack image|resolve reference) "[^"]*": '
)
_INVALID = " is invalid: "
_OF_POD = re.compile('^Error creating: pods? "[^"]*" is forbidden: ')
# The kubelet's words for a pod beyond its own limit; a node that others filled is "low on resource".
_OF_DISK = re.compile(
    "Usage of EmptyDir volume|Container .* exceeded its local ephemeral storage limit"
    "|Pod ephemeral local storage usage exceeds"
)
# The scheduler's words where a pod would not fit though all others went: on no node, of those that are up.
_FITS_NOWHERE = re.compile(r"preemption: 0/\d+ nodes are available: \d+ Preemption is not helpful")
_MAY_FIT_LATER = re.compile(
    r"No preemption victims found|were unschedulable|node\.(cloudprovider\.)?kubernetes\.io/"
    "|ToBeDeletedByClusterAutoscaler"
)
# A registry's no, and not its silence.
_NO_SUCH_IMAGE = re.compile(
    r": not found|no match for platform|\b(401|403|404)\b|unauthorized|denied|forbidden|authorization failed",
    re.IGNORECASE,
)
# What a node, the API server or a registry says of itself.
_OF_SERVERS = re.compile(
    r"timed out|timeout|not yet been read|dial unix|containerd\.sock|bucket|\b50[0234]\b", re.IGNORECASE
)
_NO_CAUSE = re.compile(r'(Back-off pulling image "[^"]*")?')
_NAMES = re.compile(r'"[^"]*"')  # of images and addresses, which say nothing of what is wrong
_NEVER_AS_IT_IS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})
_NO_START = frozenset({"StartError", "ContainerCannotRun"})


@dataclass(frozen=True, slots=True)
class AgentsWord:
    """The agent's termination message. Instants in milliseconds; everything may be missing."""

    stage_in: str = ""
    stage_out: str = ""
    detail: str = ""
    transient: bool = False
    started: int | None = None
    ended: int | None = None
    timed_out: bool = False
    hint: Any = None
    stderr: str = ""

    @classmethod
    def read(cls, text: str) -> AgentsWord:
        """What it says; nothing where it is cut off, or another program's."""
        try:
            found = json.loads(text)
            return cls(**found)
        except (ValueError, TypeError):
            return cls()


def diagnose(job: Job, pods: Sequence[Pod], refused: str = "") -> Observation:
    """The observation of one attempt.

    :param refused: why the cluster made no pod, as its event says it.
    """
    if not pods:
        return _without_pod(job, refused)
    pod = max(pods, key=lambda one: (one.created, one.uid))
    # A node may call the image by another name under which it has the same content.
    image = job.image if pod.image and "@" in job.image else pod.image
    return replace(_of_pod(job, pod, pods), image=image)


def _of_pod(job: Job, pod: Pod, pods: Sequence[Pod]) -> Observation:
    word = AgentsWord.read(pod.agent.message)
    if pod.over and all(one.over for one in pods):
        if pod.disrupted and not (pod.node or job.over or job.stopping):
            # It never began; the Job controller makes another, and does not count this one.
            return Observation(job.job_id, job.attempt, State.STAGING, "waiting for another pod")
        return _ended(job, pod, word)
    if job.stopping:
        return Observation(job.job_id, job.attempt, State.FINISHING, "being stopped")
    if pod.main.state == "terminated":
        return Observation(
            job.job_id,
            job.attempt,
            State.FINISHING,
            "storing results",
            ended=pod.main.finished,
        )
    if pod.main.state == "running":
        return Observation(job.job_id, job.attempt, State.RUNNING, _leaving(pod), silent=pod.silent)
    reason = waiting(job, pod)
    return Observation(job.job_id, job.attempt, State.STAGING, reason, stuck=_stuck(pod))


def _stuck(pod: Pod) -> bool | None:
    """Whether somebody has to mend what the pod waits for; in doubt not."""
    if pod.unscheduled:
        fits_nowhere = _FITS_NOWHERE.search(pod.unscheduled)
        return bool(fits_nowhere) and not _MAY_FIT_LATER.search(pod.unscheduled)
    found = [_never_starts(container) for container in (pod.main, pod.agent)]
    return None if None in found and True not in found else any(found)


def _never_starts(container: Container) -> bool | None:
    if _OF_SERVERS.search(_NAMES.sub("", container.message)):
        return False
    if container.reason in _NO_IMAGE and container.reason not in _NEVER_AS_IT_IS:
        if _NO_CAUSE.fullmatch(container.message):  # so before Kubernetes 1.32, between two tries
            return None
        return bool(_NO_SUCH_IMAGE.search(_NAMES.sub("", container.message)))
    return container.reason in _NEVER_AS_IT_IS


def waiting(job: Job, pod: Pod) -> str:
    """Why the attempt's code does not run yet."""
    if pod.unscheduled:
        return f"waiting for a node: {ending.clean(pod.unscheduled)}"
    for container, what in ((pod.main, f"the image {job.image}"), (pod.agent, "the agent's image")):
        if container.reason in _NO_IMAGE:
            return ending.clean(f"{what} cannot be pulled: {_of_pull(container)}")
        if container.state == "waiting" and container.reason not in (
            "",
            "PodInitializing",
            "ContainerCreating",
        ):
            return ending.clean(f"{container.reason}: {container.message}")
    if not pod.node:
        return "waiting for a node"
    if pod.main.reason == "ContainerCreating" or pod.agent.state != "running":
        return f"preparing on {pod.node}"
    return f"pulling the image on {pod.node}"


def _of_pull(container: Container) -> str:
    """Why an image cannot be pulled, without how often and by whom it was tried: the cause stands last."""
    words = _ABOUT_PULLS.sub("", container.message)
    return words or container.message or container.reason


def _leaving(pod: Pod) -> str:
    if pod.disrupted:
        return f"the pod is being taken away: {pod.disrupted}"
    if pod.silent:
        return "its node does not answer"
    return "the pod is being deleted" if pod.leaving else ""


def _without_pod(job: Job, refused: str) -> Observation:
    at = job.job_id, job.attempt
    if job.stopping and (job.over or job.suspended):
        return Observation(*at, State.ENDED, outcome=_of(ending.outcome("stopped", ending.NEVER_STARTED)))
    if job.over == "Complete":
        # All of its pod ended well, the user's code too; its manifest says whether the results are stored.
        # When the code started the door may have heard; the Job's start is not later.
        well = Outcome(Cause.SUCCEEDED, exit_code=0)
        return Observation(*at, State.ENDED, started=job.started or job.ended, ended=job.ended, outcome=well)
    if job.over:
        words = f"The job's pod is gone, and what became of it is not known ({job.why or job.over})."
        return Observation(*at, State.LOST, outcome=Outcome(Cause.LOST, words, transient=True))
    if _INVALID in refused:  # its template never changes
        words = f"The cluster refuses the job's pod: {refused.partition(_INVALID)[2]}"
        return Observation(*at, State.ENDED, outcome=Outcome(Cause.REFUSED, ending.clean(words)))
    if refused:
        words = _OF_POD.sub("", refused)  # its name is another one each time
        reason = ending.clean(f"the cluster makes no pod for it: {words}")
        forbidden = bool(_OF_POD.match(refused)) and "exceeded quota" not in refused
        return Observation(*at, State.STAGING, reason, stuck=forbidden)
    if job.suspended:
        return Observation(*at, State.STAGING, "waiting in the cluster's queue")
    # What keeps a pod from being made is told by an event, which may come later.
    return Observation(*at, State.STAGING, "waiting for a pod", stuck=None)


def _ended(job: Job, pod: Pod, word: AgentsWord) -> Observation:
    main = pod.main
    outcome = _outcome(job, pod, word)
    lost = outcome.cause is Cause.LOST
    began = word.started or (main.started if main.state == "terminated" and _ran(pod) else None)
    return Observation(
        job.job_id,
        job.attempt,
        State.LOST if lost else State.ENDED,
        started=began,
        ended=(word.ended or main.finished) if began else None,
        outcome=outcome,
    )


def _ran(pod: Pod) -> bool:
    """Whether the user's code may have started."""
    return (
        pod.agent.exit_code not in (STAGE_IN_FAILED, FENCED)
        and pod.main.reason not in _NO_START
        and pod.main.started is not None
    )


def _outcome(job: Job, pod: Pod, word: AgentsWord) -> Outcome:
    main, agent = pod.main, pod.agent
    if main.reason == "OOMKilled":
        return _of_code(job, main, word, out_of_memory=True)
    if pod.reason == "Evicted" and _OF_DISK.match(pod.message):
        words = "wrote more to its disk than it asked for"
        return _of_code(job, main, word, disk_full=words)
    if job.stopping:
        return _of_code(job, main, word, ended_by="stopped")
    if pod.reason == "DeadlineExceeded" or (word.timed_out and _was_long(job, main)):
        return _of_code(job, main, word, ended_by="timed-out")
    if agent.exit_code == STAGE_IN_FAILED:
        said = word.stage_in or "An input could not be had."
        return Outcome(Cause.STAGE_IN, said, word.detail, transient=word.transient)
    if agent.exit_code == FENCED:
        return _lost("The job's pod was replaced after it had begun; its code is not run twice.")
    if main.reason in _NO_START:
        words = f"The program could not be started in {job.image}: {main.message}"
        return _of(ending.outcome("failed", words, exit_code=main.exit_code))
    if main.state != "terminated":
        return _lost(pod.message or pod.reason or "The job's pod ended before its program did.")
    if pod.disrupted or pod.reason in ("NodeLost", "Evicted", "Shutdown", "Terminated", "Preempting"):
        return _lost(f"The job's pod was taken away ({pod.disrupted or pod.reason}). {pod.message}")
    if pod.leaving and main.exit_code:
        return _lost("The job's pod was deleted while it ran.")
    code = _of_code(job, main, word)
    if code.cause is Cause.SUCCEEDED and (agent.exit_code or word.stage_out):
        said = word.stage_out or _agent_failed(agent)
        transient = word.transient if word.stage_out else agent.reason != "OOMKilled"
        return Outcome(Cause.STAGE_OUT, said, word.detail, main.exit_code, transient)
    return code


def _was_long(job: Job, main: Container) -> bool:
    """Whether the program ran as long as it might: the wrapper's word can be forged, the kubelet's cannot."""
    if not job.duration or main.started is None or main.finished is None:
        return False
    return main.finished - main.started >= job.duration * _SECOND - _SECOND


def _of_code(
    job: Job,
    main: Container,
    word: AgentsWord,
    *,
    ended_by: str | None = None,
    out_of_memory: bool = False,
    disk_full: str = "",
) -> Outcome:
    return _of(
        ending.of_user_code(
            ended_by=ended_by,
            exit_code=main.exit_code if main.exit_code is not None else 137,
            out_of_memory=out_of_memory,
            disk_full=disk_full,
            limits={"memory": job.memory, "duration": job.duration},
            hint=word.hint,
            stderr=word.stderr,
        )
    )


def _agent_failed(agent: Container) -> str:
    if agent.reason == "OOMKilled":
        return "The results could not be stored: the agent needed more memory than the site gives it."
    return f"The results could not be stored: the agent ended with exit code {agent.exit_code}."


def _lost(words: str) -> Outcome:
    return Outcome(Cause.LOST, ending.clean(words), transient=True)


def _of(fields: dict[str, Any]) -> Outcome:
    return Outcome(**{**fields, "cause": Cause(fields["cause"])})
