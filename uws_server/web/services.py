"""What there is: ``/services`` and ``/openapi.json`` for programs, ``/`` for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from html import escape
from typing import Any

from flask import Blueprint, Response

from job_templates.description import describe, parameter_schema
from job_templates.template import Template
from uws_server.web.addresses import Addresses
from uws_server.web.answers import published
from uws_server.web.current import JSON
from uws_server.web.openapi import openapi_document
from uws_server.web.parts import Parts

_NOTHING_BUT_STYLE = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def services_blueprint(parts: Parts, addresses: Callable[[], Addresses]) -> Blueprint:
    """The lists of services."""
    blueprint = Blueprint("services", __name__)

    # Made once for each address that the server is called by: that takes as long as a hundred jobs are read.
    @lru_cache(maxsize=16)
    def services_at(base: str) -> str:
        return json.dumps({"services": [described(one, Addresses(base)) for one in parts.catalog]})

    @lru_cache(maxsize=16)
    def openapi_at(base: str) -> str:
        return json.dumps(openapi_document(parts.catalog, base))

    @blueprint.route("/services", methods=["GET"], provide_automatic_options=False)
    def services() -> Response:
        return published(services_at(addresses().base), JSON)

    @blueprint.route("/openapi.json", methods=["GET"], provide_automatic_options=False)
    def openapi() -> Response:
        return published(openapi_at(addresses().base), JSON)

    @blueprint.route("/", methods=["GET"], provide_automatic_options=False)
    def home() -> Response:
        response = published(home_page(parts.catalog, addresses()), "text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = _NOTHING_BUT_STYLE
        response.headers["Referrer-Policy"] = "no-referrer"
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
