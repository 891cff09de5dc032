"""The JSON that goes over the wire, as pydantic models: what is read, and what the OpenAPI document says."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from uws_server.domain.errors import BadRequest

PhaseName = Literal[
    "PENDING",
    "QUEUED",
    "EXECUTING",
    "COMPLETED",
    "ERROR",
    "ABORTED",
    "HELD",
    "SUSPENDED",
    "UNKNOWN",
    "ARCHIVED",
]


class Wire(BaseModel):
    """Camel case outside, nothing beside what is declared."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, strict=True)


class NewJob(Wire):
    """A job to be made. A list stands for a parameter given several times where the service allows that."""

    parameters: dict[str, Any] = Field(default={}, description="As `/services` lists them for each service.")
    run: bool = Field(default=False, description="Whether to start it at once, as PHASE=RUN does.")
    run_id: str | None = Field(default=None, max_length=64, description="Yours; it comes back unchanged.")
    execution_duration: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Seconds; 0 unlimited."
    )
    destruction: str | None = Field(default=None, description="Instant in UTC, such as 2026-11-03T09:00:01Z.")


class ParameterEntry(Wire):
    """One parameter of a job; either its value or, for files and what is long, where to read it."""

    id: str
    value: str | None = None
    href: str | None = None
    name: str | None = Field(default=None, description="What the client called the file.")
    size: int | None = Field(default=None, description="Bytes.")
    media_type: str | None = None


class ResultEntry(Wire):
    """One result. The size of a log is known once the job has ended."""

    id: str
    href: str
    size: int | None = Field(default=None, description="Bytes.")
    media_type: str | None = None
    sha256: str | None = None


class ErrorEntry(Wire):
    """Why a job failed. Transient: the same job may work if it is tried again."""

    type: Literal["transient", "fatal"]
    message: str
    has_detail: bool


class Progress(Wire):
    """How far a job is, by its own word."""

    done: int
    of: int


class JobEntry(Wire):
    """One job. Instants are ISO 8601 in UTC with Z."""

    job_id: str
    service: str
    href: str
    run_id: str | None
    owner_id: str | None
    phase: PhaseName
    quote: str | None
    creation_time: str
    start_time: str | None
    end_time: str | None
    execution_duration: int = Field(description="Seconds; 0 unlimited.")
    destruction: str | None
    parameters: list[ParameterEntry]
    results: list[ResultEntry]
    error_summary: ErrorEntry | None
    attempt: int
    site: str | None
    image: str | None = Field(description="What the attempt runs, with its digest, where the site tells.")
    reason: str | None
    progress: Progress | None
    finalising: bool = Field(description="Results may still appear although the phase is final.")


class JobBrief(Wire):
    """One line of a job list."""

    job_id: str
    href: str
    phase: PhaseName
    run_id: str | None
    owner_id: str | None
    creation_time: str


class JobList(Wire):
    """A page of the job list, newest first; `next` is the address of the next one."""

    jobs: list[JobBrief]
    next: str | None


class Refusal(Wire):
    """Why a request was not carried out, in one sentence."""

    error: str


def read_new_job(document: dict[str, Any]) -> NewJob:
    """A job from a JSON body.

    :raises BadRequest: a member is unknown or of the wrong type; the sentence names it.
    """
    try:
        return NewJob.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:80]
        if first["type"] == "extra_forbidden":
            known = ", ".join(to_camel(field) for field in NewJob.model_fields)
            raise BadRequest(f"{name!r} is no member of a new job; there are {known}") from None
        raise BadRequest(f"member {name!r} of the new job: {first['msg'].lower()}") from None
