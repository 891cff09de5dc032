"""The OpenAPI 3.1 document, made from the models that the JSON is read with, and from the templates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from job_templates.description import parameter_schema
from job_templates.template import Template
from uws_server import __version__
from uws_server.web.models import JobEntry, JobList, NewJob, ParameterEntry, Refusal, ResultEntry

_REF = "#/components/schemas/{model}"
_FORM = "application/x-www-form-urlencoded"
_TEXT = {"type": "string"}


def openapi_document(templates: Iterable[Template], base: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document, from the models that read and write the JSON, and from the templates."""
    models = (NewJob, JobEntry, JobList, ParameterEntry, ResultEntry, Refusal)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], by_alias=True, ref_template=_REF
    )
    paths: dict[str, Any] = {}
    schemas = dict(definitions["$defs"])
    for template in templates:
        name = _schema_name(template.name)
        schemas[f"{name}Parameters"] = parameter_schema(template)
        paths |= _paths(template, f"{name}Parameters")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Batch services",
            "version": __version__,
            "description": "IVOA UWS 1.1. Answers are XML unless `Accept: application/json` asks for JSON; "
            "bodies may be forms, multipart or JSON.",
        },
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _schema_name(service: str) -> str:
    return "".join(word.capitalize() for word in service.split("-"))


def _paths(template: Template, parameters: str) -> dict[str, Any]:
    service, job = f"/{template.name}", f"/{template.name}/async/{{jobId}}"
    own = {"$ref": _REF.format(model=parameters)}
    new_job = {
        "allOf": [
            {"$ref": _REF.format(model="NewJob")},
            {"type": "object", "properties": {"parameters": own}},
        ]
    }
    creation = _body({"application/json": new_job, _FORM: own, "multipart/form-data": own})
    to_job = _answer("303", "To the job", location=True)
    tag = template.name

    def operation(summary: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
        refused = {**_content("Refusal"), "text/plain": {"schema": _TEXT}}  # JSON for whoever asks for it
        refusals = {"default": {"description": "Refused, in one sentence", "content": refused}}
        return {"tags": [tag], "summary": summary, "responses": {**answer, **refusals}, **more}

    def form(**fields: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": fields, "required": list(fields)}
        return _body({_FORM: schema, "application/json": schema})

    job_id = [_in_path("jobId")]
    plain = {"200": {"description": "The value", "content": {"text/plain": {"schema": _TEXT}}}}
    seconds = {"type": "integer", "minimum": 0}
    phase = {"type": "string", "enum": ["RUN", "ABORT"]}
    return {
        f"{service}/async": {
            "get": operation(
                "The jobs, newest first",
                _answer("200", "A page of jobs", "JobList"),
                parameters=[
                    _query("PHASE", {"type": "array", "items": _TEXT}, "Only these phases"),
                    _query("AFTER", _TEXT, "Created later than this instant"),
                    _query("LAST", {"type": "integer", "minimum": 1}, "At most so many"),
                    _query("CURSOR", _TEXT, "From `next` of the page before"),
                ],
            ),
            "post": operation(
                f"Make a job: {template.title}",
                to_job,
                requestBody=creation,
                parameters=[{"name": "Idempotency-Key", "in": "header", "schema": _TEXT}],
            ),
        },
        job: {
            "parameters": job_id,
            "get": operation(
                "One job",
                _answer("200", "The job", "JobEntry"),
                parameters=[
                    _query(
                        "WAIT", {"type": "integer", "minimum": -1}, "Seconds to wait for a change of phase"
                    ),
                    _query("PHASE", _TEXT, "With WAIT: wait only while in this phase"),
                ],
            ),
            "delete": operation("Stop and remove the job", _answer("303", "To the list", location=True)),
        },
        f"{job}/phase": {
            "parameters": job_id,
            "get": operation("The phase", plain),
            "post": operation("Start or abort", to_job, requestBody=form(PHASE=phase)),
        },
        f"{job}/executionduration": {
            "parameters": job_id,
            "get": operation("Seconds that the job may run", plain),
            "post": operation("Change it", to_job, requestBody=form(EXECUTIONDURATION=seconds)),
        },
        f"{job}/destruction": {
            "parameters": job_id,
            "get": operation("When the job will be destroyed", plain),
            "post": operation("Change it", to_job, requestBody=form(DESTRUCTION=_TEXT)),
        },
        f"{job}/parameters": {
            "parameters": job_id,
            "get": operation("The parameters", _answer("200", "The parameters", "ParameterEntry", many=True)),
            "post": operation(
                "Add or replace parameters while PENDING",
                to_job,
                requestBody=_body(dict.fromkeys(("application/json", _FORM, "multipart/form-data"), own)),
            ),
        },
        f"{job}/results": {
            "parameters": job_id,
            "get": operation("The results", _answer("200", "The results", "ResultEntry", many=True)),
        },
        f"{job}/results/{{resultId}}": {
            "parameters": [*job_id, _in_path("resultId")],
            "get": operation("One result, or a log while it grows", {"200": {"description": "Its bytes"}}),
        },
        f"{job}/error": {"parameters": job_id, "get": operation("Why the job failed", plain)},
        f"{job}/quote": {"parameters": job_id, "get": operation("When the job is thought to end", plain)},
        f"{job}/owner": {"parameters": job_id, "get": operation("Whose job it is", plain)},
        f"{service}/sync": {
            "post": operation(
                "Make a job, start it, and be led to its result",
                _answer("303", "To where the result will be", location=True),
                requestBody=creation,
            ),
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _body(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def _content(model: str, many: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": _REF.format(model=model)}
    return {"application/json": {"schema": {"type": "array", "items": schema} if many else schema}}


def _answer(
    status: str, description: str, model: str = "", *, many: bool = False, location: bool = False
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if model:
        answer["content"] = {**_content(model, many), "text/xml": {"schema": _TEXT}}  # as UWS has it
    if location:
        answer["headers"] = {"Location": {"schema": {"type": "string", "format": "uri"}}}
    return {status: answer}
