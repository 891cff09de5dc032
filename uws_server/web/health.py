"""For probes and monitoring: ``/healthz`` and ``/readyz``; on the operator's port alone ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, abort, request

from uws_server import metrics
from uws_server.readiness import Answer, Readiness, of_objects, of_store
from uws_server.web.answers import text
from uws_server.web.errors import refusal
from uws_server.web.parts import Parts

_PATHS = ("/healthz", "/readyz", "/metrics")


def readiness_of(parts: Parts) -> Readiness:
    """What is asked of a web process: whether it goes on, and whether both stores answer."""
    return Readiness(
        {
            "web": lambda: "is about to stop" if parts.draining() else "",
            "redis": of_store(parts.store),
            "objects": of_objects(parts.objects),
        }
    )


def health_blueprint(parts: Parts, readiness: Readiness) -> Blueprint:
    """What tells how this process is.

    ``/healthz`` says that it answers. ``/readyz`` says whether it can do all of its work, ``/readyz/redis``
    whether it can do any: without the object store much is still answered. Their words name no address and
    no error.
    """
    blueprint = Blueprint("health", __name__)

    @blueprint.route("/healthz", methods=["GET"], provide_automatic_options=False)
    def healthz() -> Response:
        return text("ok")

    @blueprint.route("/readyz", methods=["GET"], provide_automatic_options=False)
    def readyz() -> Response:
        return _said(readiness.answer())

    @blueprint.route("/readyz/redis", methods=["GET"], provide_automatic_options=False)
    def readyz_redis() -> Response:
        return _said(readiness.answer("redis"))

    @blueprint.route("/metrics", methods=["GET"], provide_automatic_options=False)
    def numbers() -> Response:
        if not at_operators_port(request.environ, parts.operator_port):
            abort(404)
        return Response(metrics.written(), content_type=metrics.CONTENT_TYPE)

    return blueprint


def _said(answer: Answer) -> Response:
    words = "; ".join(answer.lines)
    return text(words) if answer.ready else refusal(503, words, {"Retry-After": "5"})


def at_operators_port(environ: Mapping[str, Any], port: int) -> bool:
    """Whether a request came in by the operator's port, as the socket says and not as the client does."""
    return bool(port) and environ["SERVER_PORT"] == str(port)


def refuse_others(environ: Mapping[str, Any]) -> None:
    """See that a request at the operator's port asks for nothing else: who may look may not run code yet.

    :raises NotFound: it does.
    """
    path: str = environ["PATH_INFO"]
    if not any(path == ours or path.startswith(f"{ours}/") for ours in _PATHS):
        abort(404)
