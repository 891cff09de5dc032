"""Run spec → Kubernetes Job. Pure: the same input gives the same document, byte for byte.

One pod: the agent as a native sidecar (``restartPolicy: Always`` among the init containers, Kubernetes 1.29
and newer), and the user's image, unchanged, as ``main``, with our wrapper as its process 1. There is
no init container of its own for stage-in: it would cost a second; the wrapper waits for the agent's word
instead, while the image is pulled. Volumes, all ``emptyDir``:

| Volume | agent | main | What |
|---|---|---|---|
| ``agent`` | ``/uws/attempt`` | | the agent's own notes |
| ``control`` | ``/uws/control`` | the same, read-only | the wrapper; the agent's word to start |
| ``inputs`` | ``/uws/attempt/work/inputs`` | ``/uws/work/inputs``, read-only | |
| ``work`` | ``/uws/attempt/work`` | ``/uws/work`` | outputs, progress, scratch |
| ``logs`` | ``/uws/attempt/logs`` | ``/uws/logs`` | stdout and stderr, hints of start and end |
| ``tmp`` | | ``/tmp`` | |

The one credential in it is the token of the attempt, in the agent's environment only. It is good for this
attempt's door and for as long as the attempt is wanted, and for nothing else; a Secret for it would cost a
second call to the API server for each job and could be left behind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runners.kubernetes.reference import Image
from uws_server.domain.runspec import RunSpec, places, substitute, variables

MANAGED_BY = "uws-server"
JOB = "uws-server/job"
ATTEMPT = "uws-server/attempt"
SERVICE = "uws-server/service"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
STOP = "uws-server/stop"
"""The annotation of a Job that is to end, or that is never to begin."""

ENDING = 30
"""Seconds in which a pod ends that is told to."""

_WORK = "/uws/work"
_CONTROL = "/uws/control"
_LOGS = "/uws/logs"
_WRAPPER = "/usr/local/bin/uws-wrapper"
_SPARE = 64 * 1024**2  # bytes of disk for what is neither output nor log
_LONGEST_NAME = 63  # of a label's value
_UNITS = {"": 1} | {
    f"{prefix}{end}": base**power
    for end, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kMGTPE" if base == 1000 else "KMGTPE", 1)
}
_QUANTITY = re.compile(rf"([0-9]+(?:\.[0-9]+)?)({'|'.join(_UNITS)})")
_NAME = re.compile(r"uws-([0-9a-z]+)-([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What a site says of its pods. Durations in seconds, sizes in bytes."""

    namespace: str
    instance: str
    agent_image: str
    notebook_image: str
    python: str = "python3"
    user: int = 10001
    group: int = 10001
    gpu_resource: str = "nvidia.com/gpu"
    agent_cpu_milli: int = 50
    agent_memory_bytes: int = 256 * 1024**2
    staging_seconds: int = 4 * 3600
    kept_seconds: int = 24 * 3600
    queue: str = ""
    priority_class: str = ""
    runtime_class: str = ""
    pull_secret: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()


def name(job_id: str, attempt: int) -> str:
    """The Job's name: whoever starts this attempt again finds that it exists already."""
    return f"uws-{job_id.lower()}-{attempt}"


def attempt_of(name: str) -> tuple[str, int] | None:
    """The attempt whose Job has this name; None when it is none of ours."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def digest(spec: RunSpec) -> str:
    """What the agent compares with the run spec that the server gives it, so that pod and agent agree."""
    return hashlib.sha256(spec.to_json().encode()).hexdigest()


def job(
    spec: RunSpec, settings: PodSettings, agent_url: str, token: str, image: Image | None = None
) -> dict[str, Any]:
    """The Job of one attempt.

    :param image: in place of the run spec's, with the words to run where the run spec has no command.
    :raises ValueError: neither the job nor the site names an image.
    """
    ours = {**labels(spec.job_id, spec.attempt, settings), SERVICE: spec.service[:_LONGEST_NAME]}
    queue = {"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(spec.job_id, spec.attempt),
            "namespace": settings.namespace,
            "labels": {**ours, **queue},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            # A pod drained before it began goes on elsewhere; after one that began, the door refuses others.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            # With a queue nothing starts before the queue admits it.
            **({"suspend": True} if settings.queue else {}),
            "ttlSecondsAfterFinished": settings.kept_seconds,
            "template": {"metadata": {"labels": ours}, "spec": _pod(spec, settings, agent_url, token, image)},
        },
    }


def stone(job_id: str, attempt: int, settings: PodSettings) -> dict[str, Any]:
    """A Job that never makes a pod: it takes the name of an attempt that is never to begin.

    Pods of the attempt whose own Job is gone, and that nothing owns, the cluster gives to it: as it is
    suspended they are ended, and they are deleted with it.

    As it never finishes the cluster never deletes it by itself. The watcher does: it sees a Job that is to
    end and has no pod, finds that its record is over, and has the site forget it. One whose record is gone by
    then is left, as nobody may take it for unwanted; the watcher's log names it.
    """
    ours = labels(job_id, attempt, settings)
    main = {"name": "main", "image": "none.invalid/none:0"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(job_id, attempt),
            "namespace": settings.namespace,
            "labels": ours,
            "annotations": {STOP: "true"},
        },
        "spec": {
            "suspend": True,
            "activeDeadlineSeconds": 1,  # were somebody to resume it
            "manualSelector": True,
            "selector": {"matchLabels": ours},
            "template": {
                "metadata": {"labels": ours},
                "spec": {"restartPolicy": "Never", "containers": [main]},
            },
        },
    }


def limits(main: Mapping[str, Any]) -> tuple[int, int]:
    """Memory in bytes and execution duration in seconds of a ``main`` container; 0 where it has none."""
    memory = ((main.get("resources") or {}).get("limits") or {}).get("memory") or "0"
    words = main.get("command") or []
    duration = words[5] if len(words) > 6 and words[1] == "run" else "0"
    return _bytes(memory), int(duration) if duration.isdigit() else 0


def _bytes(text: str) -> int:
    """A quantity of bytes: an admission webhook may have written it its own way."""
    found = _QUANTITY.fullmatch(text)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def labels(job_id: str, attempt: int, settings: PodSettings) -> dict[str, str]:
    """By which the Job and the pods of an attempt are followed."""
    return {
        "app.kubernetes.io/name": "uws-job",
        MANAGED_BY_LABEL: MANAGED_BY,
        INSTANCE: settings.instance,
        JOB: job_id.lower(),
        ATTEMPT: str(attempt),
    }


def selector(instance: str) -> str:
    """What selects the Jobs and pods of a server among others."""
    return f"{INSTANCE}={instance},{MANAGED_BY_LABEL}={MANAGED_BY}"


def _pod(
    spec: RunSpec, settings: PodSettings, agent_url: str, token: str, image: Image | None
) -> dict[str, Any]:
    limits = spec.limits
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        # For a pod that is told to end: the wrapper kills at half of the job's grace, and the agent has the
        # rest. But the kubelet tells the agent, too, when the program has ended by itself, and counts from
        # there: results may be large, and their store away for a while.
        "terminationGracePeriodSeconds": max(ENDING, 3 * limits.grace) + settings.staging_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_agent(spec, settings, agent_url, token)],
        "containers": [_main(spec, settings, image or Image(spec.image or settings.notebook_image))],
        "volumes": _volumes(spec),
    }
    if limits.duration:  # a backstop only: wrapper and watcher come first
        pod["activeDeadlineSeconds"] = limits.duration + settings.staging_seconds
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    if settings.runtime_class:
        pod["runtimeClassName"] = settings.runtime_class
    if settings.pull_secret:
        pod["imagePullSecrets"] = [{"name": settings.pull_secret}]
    return pod


_SHUT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def _agent(spec: RunSpec, settings: PodSettings, agent_url: str, token: str) -> dict[str, Any]:
    attempt = "/uws/attempt"
    cpu, memory = f"{settings.agent_cpu_milli}m", str(settings.agent_memory_bytes)
    return {
        "name": "agent",
        "image": settings.agent_image,
        "command": [_WRAPPER, "init", settings.python, "-m", "runners.agent", "pod", attempt, _CONTROL],
        "restartPolicy": "Always",
        "env": [
            {"name": "UWS_AGENT_URL", "value": agent_url},
            {"name": "UWS_AGENT_TOKEN", "value": token},
            {"name": "UWS_SPEC_SHA256", "value": digest(spec)},
            {"name": "UWS_WORK", "value": _WORK},
            {"name": "UWS_STORING_SECONDS", "value": str(settings.staging_seconds)},
            {"name": "UWS_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        # main is created when this is done, and needs the wrapper then.
        "lifecycle": {"postStart": {"exec": {"command": [_WRAPPER, "install", _CONTROL]}}},
        "resources": {
            "requests": {"cpu": cpu, "memory": memory},
            "limits": {"cpu": "1", "memory": memory},
        },
        "securityContext": _SHUT,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "agent", "mountPath": attempt},
            {"name": "work", "mountPath": f"{attempt}/work"},
            {"name": "inputs", "mountPath": f"{attempt}/work/inputs"},
            {"name": "logs", "mountPath": f"{attempt}/logs"},
            {"name": "control", "mountPath": _CONTROL},
        ],
    }


def _main(spec: RunSpec, settings: PodSettings, image: Image) -> dict[str, Any]:
    if not image.name:
        raise ValueError("neither the job nor the site names an image")
    where = places(_WORK, settings.python)
    # As at every site, where the outputs go. A `workingDir` the kubelet would make, for root, where the agent
    # has not made it yet. A user's image begins where it says.
    there = [] if spec.kind == "container" else ["env", f"--chdir={where['outputs']}"]
    limits, resources = spec.limits, spec.resources
    disk = resources.disk_bytes + 2 * limits.log_bytes + _SPARE
    amounts = {
        "cpu": f"{resources.cpu_milli}m",
        "memory": str(resources.memory_bytes),
        "ephemeral-storage": str(disk),
        **({settings.gpu_resource: str(resources.gpu)} if resources.gpu else {}),
    }
    return {
        "name": "main",
        "image": image.name,
        "command": [
            f"{_CONTROL}/uws-wrapper",
            "run",
            _CONTROL,
            _LOGS,
            *(str(number) for number in (limits.log_bytes, limits.duration, limits.grace)),
            "--",
            *there,
            *(_literal(substitute(item, where)) for item in spec.command),
            # In an image's own words nothing stands for a directory of ours.
            *(_literal(item) for item in image.command),
        ],
        "env": [
            {"name": key, "value": _literal(value)} for key, value in sorted(variables(spec, _WORK).items())
        ],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": _SHUT,
        "volumeMounts": [
            {"name": "work", "mountPath": _WORK},
            {"name": "inputs", "mountPath": where["inputs"], "readOnly": True},
            {"name": "logs", "mountPath": _LOGS},
            {"name": "control", "mountPath": _CONTROL, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _literal(text: str) -> str:
    """Text that the kubelet takes as it is: elsewhere it replaces ``$(NAME)`` and ``$$``."""
    return text.replace("$", "$$")


def _volumes(spec: RunSpec) -> list[dict[str, Any]]:
    disk, log = spec.resources.disk_bytes, spec.limits.log_bytes
    inputs = sum(item.max_bytes for item in spec.inputs)
    sizes = {
        "agent": _SPARE,
        "control": _SPARE // 4,
        "inputs": min(inputs, disk) + _SPARE // 4,
        "logs": 2 * log + _SPARE // 4,
        "tmp": disk,
        "work": disk,
    }
    return [{"name": key, "emptyDir": {"sizeLimit": str(size)}} for key, size in sizes.items()]
