"""What there is, for programs: ``/services`` and ``/openapi.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response

from job_templates.description import describe, parameter_schema
from job_templates.template import Template
from uws_server.web.addresses import Addresses
from uws_server.web.answers import published
from uws_server.web.current import JSON
from uws_server.web.openapi import openapi_document
from uws_server.web.parts import Parts


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
