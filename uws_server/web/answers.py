"""The answers that every family of resources gives."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Response, request
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Header = tuple[str, str]
_ALWAYS: tuple[Header, ...] = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


class Answer(Response):
    """A short answer, complete from the beginning.

    A response of werkzeug's makes, copies and amends a set of headers, which costs more than reading and
    rendering a job. Here they are a list that goes out as it is, unless somebody asks for ``headers``.
    """

    def __init__(self, status: str, headers: list[Header], body: bytes) -> None:
        headers.append(("Content-Length", str(len(body))))
        self._ready = status, headers, body

    @cached_property
    def headers(self) -> Headers:  # type: ignore[override]
        """The headers, to be changed."""
        return Headers(self._ready[1])

    @property  # type: ignore[misc]
    def status_code(self) -> int:
        """The status as a number."""
        return int(self._ready[0][:3])

    def get_data(self, as_text: bool = False) -> Any:
        """The body."""
        return self._ready[2].decode() if as_text else self._ready[2]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, as any WSGI application."""
        status, headers, body = self._ready
        changed: Headers | None = self.__dict__.get("headers")
        start_response(status, headers if changed is None else changed.to_wsgi_list())
        return () if environ["REQUEST_METHOD"] == "HEAD" else (body,)


def document(body: bytes, content_type: str) -> Response:
    """A document about a job, in the format that the client likes."""
    headers = [("Content-Type", content_type), *_ALWAYS, ("Vary", "Accept")]
    return Answer("200 OK", headers, body)


def text(value: str) -> Response:
    """A value as exact bytes, nothing around it (UWS-73, UWS-75)."""
    return Answer(
        "200 OK",
        [("Content-Type", "text/plain; charset=utf-8"), *_ALWAYS],
        # An error's detail may be a log with anything in it.
        value.encode(errors="replace"),
    )


def redirect(address: str) -> Response:
    """Exactly 303, to an absolute address (UWS-13)."""
    return Answer("303 See Other", [("Location", address), *_ALWAYS], b"")


def published(body: str | bytes, content_type: str) -> Response:
    """A document that is the same for everybody until the server starts anew; who has it already gets 304."""
    response = Response(body, 200, content_type=content_type)
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
