"""The same documents as JSON, for buttons and portals; their shape is in `uws_server.web.models`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from uws_server.domain.instants import Instant, to_iso
from uws_server.domain.job import Job, Parameter
from uws_server.service.results import listed
from uws_server.web.addresses import Addresses
from uws_server.web.render_xml import LONGEST


def job_document(job: Job, addresses: Addresses) -> bytes:
    """One job: `JobEntry`."""
    error = job.error
    return _encoded(
        {
            "jobId": job.id,
            "service": job.service,
            "href": addresses.job(job.service, job.id),
            "runId": job.run_id or None,
            "ownerId": job.owner or None,
            "phase": job.phase.value,
            "quote": _instant(job.quote),
            "creationTime": to_iso(job.created),
            "startTime": _instant(job.started),
            "endTime": _instant(job.ended),
            "executionDuration": job.duration,
            "destruction": _instant(job.destruction),
            "parameters": _parameters(job, addresses),
            "results": _results(job, addresses),
            "errorSummary": None
            if error is None
            else {
                "type": "transient" if error.transient else "fatal",
                "message": error.message,
                "hasDetail": bool(error.detail),
            },
            "attempt": job.attempt,
            "site": job.site or None,
            "image": job.image or None,
            "reason": job.reason or None,
            "progress": job.progress and {"done": job.progress[0], "of": job.progress[1]},
            "finalising": job.finalising,
        }
    )


def job_list(service: str, jobs: Sequence[Job], addresses: Addresses, following: str | None) -> bytes:
    """A page of the job list: `JobList`."""
    below = addresses.jobs(service) + "/"
    return _encoded(
        {
            "jobs": [
                {
                    "jobId": job.id,
                    "href": below + job.id,
                    "phase": job.phase.value,
                    "runId": job.run_id or None,
                    "ownerId": job.owner or None,
                    "creationTime": to_iso(job.created),
                }
                for job in jobs
            ],
            "next": following,
        }
    )


def results_document(job: Job, addresses: Addresses) -> bytes:
    """The results alone: a list of `ResultEntry`."""
    return _encoded(_results(job, addresses))


def parameters_document(job: Job, addresses: Addresses) -> bytes:
    """The parameters alone: a list of `ParameterEntry`."""
    return _encoded(_parameters(job, addresses))


def _parameters(job: Job, addresses: Addresses) -> list[dict[str, Any]]:
    return [_parameter(job, parameter, addresses) for parameter in job.parameters]


def _parameter(job: Job, parameter: Parameter, addresses: Addresses) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": parameter.name}
    upload = parameter.upload
    if upload is None and len(parameter.value) <= LONGEST:
        return {**entry, "value": parameter.value}
    entry["href"] = addresses.parameter(job.service, job.id, parameter.name)
    if upload is not None:
        entry.update(name=parameter.value, size=upload.size, mediaType=upload.media_type)
    return entry


def _results(job: Job, addresses: Addresses) -> list[dict[str, Any]]:
    return [
        {
            "id": result.id,
            "href": addresses.result(job.service, job.id, result.id),
            "size": result.size,
            "mediaType": result.media_type,
            "sha256": result.sha256 or None,
        }
        for result in listed(job)
    ]


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else to_iso(instant)


def _encoded(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
