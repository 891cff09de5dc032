"""What the cluster's documents say of one attempt, in the few words that `diagnose` needs.

A pod's document is some 10 kB and ten times that in memory; what is kept of it here is a few hundred bytes,
so that a watcher can hold tens of thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from runners.kubernetes import manifest

Document = Mapping[str, Any]

_WORDS = 4096  # bytes of a termination message, as the kubelet cuts it


@dataclass(frozen=True, slots=True)
class Container:
    """A container's state. Instants are milliseconds since 1970 UTC, of whole seconds."""

    state: Literal["", "waiting", "running", "terminated"] = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    started: int | None = None
    finished: int | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of an attempt. ``disrupted`` is why it is taken away, ``unscheduled`` why it has no node.

    ``silent``: its node does not answer, so that what is said of it is of before. ``owned`` says whether
    anything in the cluster sees to its end; ``memory`` in bytes and ``duration`` in seconds are the limits
    of the user's code.
    """

    uid: str
    created: str
    phase: str
    reason: str
    message: str
    node: str
    leaving: bool
    disrupted: str
    unscheduled: str
    agent: Container
    main: Container
    image: str
    memory: int = 0
    duration: int = 0
    owned: bool = True
    silent: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.phase in ("Succeeded", "Failed") or (
            self.main.state == "terminated" and self.agent.state == "terminated"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """The Job of an attempt, ``gone`` where others deleted it.

    ``over`` is '', ``Complete`` or ``Failed``; ``started`` and ``ended`` are those of the Job, in
    milliseconds: its pods may come later, and do not go on longer.
    """

    job_id: str
    attempt: int
    uid: str
    version: str
    stopping: bool
    suspended: bool
    over: str
    why: str
    memory: int
    duration: int
    image: str
    started: int | None = None
    ended: int | None = None
    gone: bool = False


def deleted(of: Job) -> Job:
    """What is known of a Job that others deleted."""
    return replace(of, over=of.over or "Failed", why="the Job was deleted", gone=True)


def unknown(key: tuple[str, int], pod: Pod) -> Job:
    """What is known of a Job that nobody saw, by a pod that it has left."""
    return deleted(Job(*key, "", "0", False, False, "", "", pod.memory, pod.duration, pod.image))


def key(document: Document) -> tuple[str, int] | None:
    """The attempt that a Job or pod belongs to; None when its labels do not say."""
    labels = document.get("metadata", {}).get("labels") or {}
    job_id, attempt = labels.get(manifest.JOB), labels.get(manifest.ATTEMPT)
    if not job_id or not attempt or not attempt.isdigit():
        return None
    return job_id, int(attempt)


def job(document: Document) -> Job:
    """What a Job's document says.

    :raises KeyError, ValueError: it is none of ours, or was changed beyond recognition.
    """
    found = key(document)
    if found is None:
        raise ValueError("its labels name no attempt")
    meta, spec = document["metadata"], document["spec"]
    status = document.get("status") or {}
    over = next(
        (c for c in status.get("conditions") or [] if c["type"] in ("Complete", "Failed") and _true(c)), None
    )
    main = spec["template"]["spec"]["containers"][0]
    memory, duration = manifest.limits(main)
    return Job(
        *found,
        uid=meta["uid"],
        version=meta["resourceVersion"],
        stopping=manifest.STOP in (meta.get("annotations") or {}),
        suspended=bool(spec.get("suspend")),
        over=over["type"] if over else "",
        why=over.get("reason", "") if over else "",
        memory=memory,
        duration=duration,
        image=main["image"],
        started=_instant(status.get("startTime")),
        ended=_instant(status.get("completionTime")),
    )


def pod(document: Document) -> Pod:
    """What a pod's document says.

    :raises KeyError: it is no pod of ours.
    """
    meta, spec = document["metadata"], document["spec"]
    status = document.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    scheduled, target = conditions.get("PodScheduled"), conditions.get("DisruptionTarget")
    main = _named(status.get("containerStatuses"), "main")
    memory, duration = manifest.limits(_named(spec.get("containers"), "main"))
    return Pod(
        uid=meta["uid"],
        created=meta["creationTimestamp"],
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        message=(status.get("message") or "")[:_WORDS],
        node=spec.get("nodeName") or "",
        leaving="deletionTimestamp" in meta,
        disrupted=(target.get("reason") or "DisruptionTarget") if target and _true(target) else "",
        unscheduled=(scheduled.get("message") or scheduled.get("reason") or "")
        if scheduled and not _true(scheduled)
        else "",
        agent=_container(_named(status.get("initContainerStatuses"), "agent")),
        main=_container(main),
        image=main.get("imageID") or "",
        memory=memory,
        duration=duration,
        # The kubelet says both alike; of a node that it does not hear of the cluster takes back the second.
        silent=_is(conditions, "ContainersReady", "True")
        and _is(conditions, "Ready", "False")
        and not spec.get("readinessGates"),
        owned=any(owner.get("controller") for owner in meta.get("ownerReferences") or []),
    )


def _is(conditions: Mapping[str, Document], name: str, status: str) -> bool:
    return name in conditions and conditions[name].get("status") == status


def _true(condition: Document) -> bool:
    return bool(condition.get("status") == "True")


def _named(statuses: list[Document] | None, name: str) -> Document:
    return next((one for one in statuses or [] if one["name"] == name), {})


def _container(status: Document) -> Container:
    state = status.get("state") or {}
    if "terminated" in state:
        end = state["terminated"]
        return Container(
            "terminated",
            end.get("reason") or "",
            (end.get("message") or "")[:_WORDS],
            end.get("exitCode"),
            _instant(end.get("startedAt")),
            _instant(end.get("finishedAt")),
        )
    if "running" in state:
        return Container("running", started=_instant(state["running"].get("startedAt")))
    if "waiting" in state:
        waiting = state["waiting"]
        return Container("waiting", waiting.get("reason") or "", (waiting.get("message") or "")[:_WORDS])
    return Container()


def _instant(text: str | None) -> int | None:
    if not text:
        return None
    at = int(datetime.fromisoformat(text).timestamp() * 1000)
    return at or None  # 1970 stands for "never" where a program could not be started
