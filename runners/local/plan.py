"""The plan of an attempt: all that its supervisor knows. Pure, but for this process's environment."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from runners.local.isolation import Isolation, LocalSettings
from uws_server.domain.runspec import RunSpec, places, substitute, variables
from uws_server.domain.wire import FENCED, STAGE_IN_FAILED, STAGE_OUT_FAILED

_PASSED_ON = re.compile(
    r"PATH|LD_LIBRARY_PATH|HOME|LANG|LC_.*|TZ|PYTHONPATH|VIRTUAL_ENV|SSL_CERT_(FILE|DIR)|(https?|all|no)_proxy",
    re.IGNORECASE,
)
_SCRATCH = 1024**3  # most bytes of /tmp and of /dev/shm, which are memory
_LONGEST_ARGUMENT = 128 * 1024 - 1  # bytes, by the kernel
_LONGEST_COMMAND = 1024**2


def plan(
    spec: RunSpec,
    directory: Path,
    settings: LocalSettings,
    isolation: Isolation,
    *,
    uid: int | None,
    view: list[list[str]],
    watchers: Path,
) -> dict[str, Any]:
    """What stands in plan.json.

    :param directory: the attempt's own.
    :param uid: the attempt's user id, and group id; None when it runs as the server's user.
    :param view: see `runners.local.view`.
    :param watchers: where those listen who wait for news.
    """
    resources = spec.resources
    work = str(directory / "work")
    where = places(work, sys.executable)
    groups = dict(isolation.cgroup_roots)
    return {
        "name": directory.name,
        "mode": isolation.mode,
        "argv": [substitute(item, where) for item in spec.command],
        "environment": environment(spec, work),
        "cwd": where["outputs"],
        "work": work,
        "root": str(directory / "root"),
        "view": view,
        "network": settings.network,
        "scratch": min(_SCRATCH, resources.memory_bytes),
        "uid": uid,
        "bubblewrap": isolation.bubblewrap,
        "filter": isolation.filters,
        "limits": {
            "duration": spec.limits.duration,
            "grace": spec.limits.grace,
            "log": spec.limits.log_bytes,
            "output": spec.limits.output_bytes,
            "disk": resources.disk_bytes,
            "memory": resources.memory_bytes,
            "processes": resources.processes,
            "cpu_milli": resources.cpu_milli,
        },
        "stage_in": bool(spec.inputs),
        "agent": list(settings.agent),
        "agent_environment": {
            name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)
        },
        "agent_exits": {"stage-in": STAGE_IN_FAILED, "stage-out": STAGE_OUT_FAILED, "fenced": FENCED},
        "agent_tries": settings.agent_tries,
        "agent_stall": settings.agent_stall,
        "agent_limit": settings.agent_limit,
        "watchers": str(watchers),
        "cgroup": {"parent": settings.cgroup, "roots": groups} if groups else None,
    }


def refusal(spec: RunSpec) -> str:
    """Why this site can never run this run spec, in one sentence; '' when it can."""
    if spec.kind == "container" or spec.image is not None:
        return "This site runs programs and notebooks, not container images."
    if not spec.command:
        return "The job names no command to run."
    if spec.resources.gpu:
        return "This site has no GPU to give to a job."
    texts = [*spec.command, *(f"{name}={value}" for name, value in spec.environment.items())]
    sizes = [len(os.fsencode(text)) for text in texts]
    if max(sizes) > _LONGEST_ARGUMENT or sum(sizes) > _LONGEST_COMMAND:
        return "The job's command and environment are too long."
    if any("\0" in text for text in texts):
        return "The job's command or environment holds a NUL character."
    if any(not name or "=" in name for name in spec.environment):
        return "The job's environment holds a name that is none."
    return ""


def environment(spec: RunSpec, work: str) -> dict[str, str]:
    """The whole environment of the user's process; the run spec has the last word."""
    path = f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, **variables(spec, work)}
