"""The Flask application: one blueprint per family, and as little work per request as Flask allows."""

from __future__ import annotations

from functools import cache
from time import perf_counter

from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from uws_server.metrics import REQUEST, REQUESTS
from uws_server.web import errors
from uws_server.web.agent import agent_blueprint
from uws_server.web.answers import Answer
from uws_server.web.current import Current
from uws_server.web.health import at_operators_port, health_blueprint, readiness_of, refuse_others
from uws_server.web.hosts import refuse_foreign_names
from uws_server.web.job import JobResources
from uws_server.web.job_list import job_list_blueprint
from uws_server.web.job_parameters import parameters_blueprint
from uws_server.web.own_machine import refuse_foreign_pages
from uws_server.web.pages import pages_blueprint
from uws_server.web.parts import Parts
from uws_server.web.results import results_blueprint
from uws_server.web.services import services_blueprint
from uws_server.web.storage import storage_blueprint
from uws_server.web.sync import sync_blueprint
from uws_server.web.vosi import vosi_blueprint

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_requests, _request = (
    cache(REQUESTS.labels),
    cache(REQUEST.labels),
)  # a look takes longer than a count


class _NoSession(SessionInterface):
    """Nobody has a session here, so that nothing is opened, looked at or saved for one."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


class Edge(Flask):
    """Flask, without asking of each request how its own absolute address would be built."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Routes by path and method. Addresses for clients come from `Addresses`, never from here."""
        if request is None:
            return None
        environ = request.environ
        path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
        return MapAdapter(self.url_map, "", "/", "", "http", path, environ["REQUEST_METHOD"])

    def full_dispatch_request(self) -> Response:
        """Counts and times each request by its route: paths are the clients', and without end."""
        begun = perf_counter()
        response = super().full_dispatch_request()
        rule, environ = request.url_rule, request.environ  # each look at `request` costs a microsecond
        route = rule.rule if rule else "none"
        method = environ["REQUEST_METHOD"]
        if method not in _METHODS:
            method = "other"
        _requests(method, route, response.status_code).inc()
        if "WAIT=" not in environ.get("QUERY_STRING", "").upper():
            _request(method, route).observe(perf_counter() - begun)
        return response

    def process_response(self, response: Response) -> Response:
        """Unless an answer says otherwise no cache keeps it; a browser takes it for what it says it is."""
        response = super().process_response(response)
        if not isinstance(response, Answer):  # which has both
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response


def create_app(parts: Parts) -> Flask:
    """The application with everything it is made of. Nothing is opened and nothing started here."""
    app = Edge("uws_server.web", static_url_path="/static")
    app.session_interface = _NoSession()
    # Clients with and without a slash at the end get the same answer; none is sent elsewhere.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    errors.register(app)
    by_any_name = bool(parts.base_url) and not parts.own_machine

    def at_the_door() -> None:
        environ = request.environ
        if at_operators_port(environ, parts.operator_port):
            refuse_others(environ)
            return
        if not by_any_name:
            refuse_foreign_names(environ, parts.names, parts.own_machine)
        if parts.own_machine:
            refuse_foreign_pages(environ)

    if parts.operator_port or not by_any_name:
        app.before_request(at_the_door)
    current = Current(parts)
    readiness = readiness_of(parts)
    app.register_blueprint(job_list_blueprint(parts, current))
    app.register_blueprint(JobResources(parts, current).blueprint())
    app.register_blueprint(parameters_blueprint(parts, current))
    app.register_blueprint(results_blueprint(parts))
    app.register_blueprint(sync_blueprint(parts, current))
    app.register_blueprint(vosi_blueprint(parts, current.addresses, readiness))
    app.register_blueprint(services_blueprint(parts, current.addresses))
    app.register_blueprint(health_blueprint(parts, readiness))
    app.register_blueprint(pages_blueprint(parts, current))
    app.register_blueprint(agent_blueprint(parts))
    app.register_blueprint(storage_blueprint(parts.objects, parts.links, parts.bounds.patience))
    return app
