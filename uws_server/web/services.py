"""What there is: ``/services`` and ``/openapi.json`` for programs, ``/`` for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from flask import Blueprint, Response

from job_templates.description import describe, parameter_schema
from job_templates.template import Template
from uws_server.web.addresses import Addresses
from uws_server.web.openapi import openapi_document
from uws_server.web.parts import Parts


def services_blueprint(parts: Parts, addresses: Callable[[], Addresses]) -> Blueprint:
    """The lists of services."""
    blueprint = Blueprint("services", __name__)

    @blueprint.route("/services", methods=["GET"], provide_automatic_options=False)
    def services() -> Response:
        listed = [described(template, addresses()) for template in parts.catalog]
        return _json({"services": listed})

    @blueprint.route("/openapi.json", methods=["GET"], provide_automatic_options=False)
    def openapi() -> Response:
        return _json(openapi_document(parts.catalog, addresses().base))

    @blueprint.route("/", methods=["GET"], provide_automatic_options=False)
    def home() -> Response:
        response = Response(
            home_page(parts.catalog, addresses()), 200, content_type="text/html; charset=utf-8"
        )
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'self'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return blueprint


def described(template: Template, addresses: Addresses) -> dict[str, Any]:
    """One service: its typed parameters, what it may use, what it gives, and where it is."""
    service = addresses.service(template.name)
    return {
        **describe(template),
        "async": f"{service}/async",
        "sync": f"{service}/sync",
        "capabilities": f"{service}/capabilities",
        "availability": f"{service}/availability",
        "parameter_schema": parameter_schema(template),
    }


def home_page(templates: Iterable[Template], addresses: Addresses) -> str:
    """The services as a page for people."""
    items = "\n".join(
        f"<li><h2>{escape(template.title)}</h2>\n<p>{escape(template.description)}</p>\n"
        f'<p><a href="{escape(addresses.jobs(template.name))}">Jobs</a> · '
        f'<a href="{escape(addresses.service(template.name))}/capabilities">Capabilities</a> · '
        f"<code>{escape(addresses.jobs(template.name))}</code></p></li>"
        for template in templates
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Batch services</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<link rel="stylesheet" href="{escape(addresses.base)}/static/page.css"></head>\n'
        "<body>\n<h1>Batch services</h1>\n"
        '<p>Each service takes jobs by <a href="https://www.ivoa.net/documents/UWS/">IVOA UWS 1.1</a>.</p>\n'
        f"<ul>\n{items}\n</ul>\n"
        f'<p><a href="{escape(addresses.base)}/services">Services and their parameters as JSON</a> · '
        f'<a href="{escape(addresses.base)}/openapi.json">OpenAPI</a></p>\n</body>\n</html>\n'
    )


def _json(document: Any) -> Response:
    return Response(json.dumps(document), 200, content_type="application/json")
