"""How a job is written down: a hash of short fields, and two JSON texts beside it.

Every value of the hash stays within 64 bytes, so that Redis keeps it as one compact listpack; what is
longer goes to the texts: ``parameters`` (which seldom change) and ``outcome`` (reason, image, error,
results). Fields that have their default are not written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Upload, Workload
from uws_server.domain.phase import Phase


class Unreadable(Exception):
    """A record that this release cannot read."""


_PHASES = {phase.value: phase for phase in Phase}
_WORKLOADS = {workload.value: workload for workload in Workload}

# attribute → (field, from text)
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "version": ("v", int),
    "phase": ("p", _PHASES.__getitem__),
    "service": ("s", str),
    "owner": ("o", str),
    "created": ("c", int),
    "run_id": ("r", str),
    "duration": ("d", int),
    "destruction": ("x", int),
    "quote": ("q", int),
    "queued": ("u", int),
    "deferred": ("h", int),
    "started": ("b", int),
    "attempt_started": ("f", int),
    "ended": ("e", int),
    "site": ("i", str),
    "workload": ("w", _WORKLOADS.__getitem__),
    "attempt": ("n", int),
    "lapses": ("l", int),
    "unproved": ("y", int),
    "stuck": ("j", int),
    "cpu_milli": ("k", int),
    "memory_bytes": ("m", int),
    "template": ("t", str),
}
_READ = {field: (name, read) for name, (field, read) in _FIELDS.items()}
_DEFAULTS = {name: getattr(Job("", "", "", 0), name) for name in _FIELDS}
_ALWAYS = frozenset({"version", "phase", "service", "created", "cpu_milli", "memory_bytes"})


def fields(job: Job) -> dict[str, str | int]:
    """The hash of a job."""
    written: dict[str, str | int] = {}
    for name, (field, _) in _FIELDS.items():
        value = getattr(job, name)
        if name in _ALWAYS or value != _DEFAULTS[name]:
            written[field] = value
    if job.deleted:
        written["z"] = 1
    if job.progress is not None:
        written["g"] = f"{job.progress[0]}/{job.progress[1]}"
    return written


def parameters(job: Job) -> str:
    """The parameters as JSON, '' for none."""
    if not job.parameters:
        return ""
    return json.dumps(
        [
            [p.name, p.value]
            if p.upload is None
            else [p.name, p.value, [p.upload.size, p.upload.sha256, p.upload.media_type, p.upload.key]]
            for p in job.parameters
        ],
        separators=(",", ":"),
    )


def outcome(job: Job) -> str:
    """Reason, image, error, results and log sizes as JSON, '' for none."""
    content: dict[str, Any] = {}
    if job.reason:
        content["reason"] = job.reason
    if job.image:
        content["image"] = job.image
    if job.error is not None:
        content["error"] = [job.error.message, job.error.transient, job.error.detail]
    if job.results:
        content["results"] = [[r.id, r.name, r.size, r.media_type, r.sha256] for r in job.results]
    if job.logs is not None:
        content["logs"] = job.logs
    return json.dumps(content, separators=(",", ":")) if content else ""


def job(
    job_id: str, written: dict[str, str], parameters_text: str | None = None, outcome_text: str | None = None
) -> Job:
    """Read a job.

    :raises Unreadable: naming the job and what is wrong with its record.
    """
    try:
        values: dict[str, Any] = {"id": job_id, "owner": ""}
        for field, text in written.items():
            known = _READ.get(field)
            if known is not None:
                values[known[0]] = known[1](text)
        if "g" in written:
            done, of = written["g"].split("/")
            values["progress"] = (int(done), int(of))
        if "z" in written:
            values["deleted"] = True
        if parameters_text:
            values["parameters"] = tuple(
                Parameter(item[0], item[1], Upload(*item[2]) if len(item) > 2 else None)
                for item in json.loads(parameters_text)
            )
        if outcome_text:
            content = json.loads(outcome_text)
            values["reason"] = content.get("reason", "")
            values["image"] = content.get("image", "")
            if "error" in content:
                values["error"] = ErrorSummary(*content["error"])
            if "results" in content:
                values["results"] = tuple(Result(*item) for item in content["results"])
            if "logs" in content:
                values["logs"] = tuple(content["logs"])
        return Job(**values)
    except (TypeError, ValueError, KeyError, LookupError) as error:
        raise Unreadable(f"the record of job {job_id} cannot be read: {error!r}") from error
