"""What users made, over HTTP: results and logs, and how a browser is kept from running any of it."""

from __future__ import annotations

import re
from urllib.parse import quote

from flask import Blueprint, Response, request

from uws_server.domain.errors import NotFound
from uws_server.service.results import Found
from uws_server.storage.base import NotStored
from uws_server.web.answers import redirect
from uws_server.web.parts import Parts
from uws_server.web.storage import object_response

# What a browser runs, or hands to a program that does.
_SCRIPTABLE = re.compile(
    r"text/(?:html|xml|xsl|javascript|ecmascript)|image/svg\b|application/(?:xhtml|x-shockwave|java)"
    r"|.*[+/](?:xml|javascript|pdf)\b",
    re.IGNORECASE,
)
_UNFIT = re.compile(r"[^\w.+ -]|^\.+", re.ASCII)
_LINK_SECONDS = 60


def results_blueprint(parts: Parts) -> Blueprint:
    """``/{service}/async/{id}/results/{rid}``."""
    blueprint = Blueprint("results", __name__, url_prefix="/<service>/async/<job_id>/results")

    @blueprint.route("/<path:result_id>", methods=["GET"], provide_automatic_options=False)
    def result(service: str, job_id: str, result_id: str) -> Response:
        job = parts.jobs.get(parts.authenticator.authenticate(request.headers.get), service, job_id)
        found = parts.results.find(job, result_id)
        if _from_store(parts, found):
            # The type that was judged here, not the one that an upload may have claimed.
            key, kind = found.stored.key, found.media_type
            return redirect(parts.objects.sign("GET", key, _LINK_SECONDS, public=True, media_type=kind))
        try:
            response = object_response(found.source, found.stored, found.media_type)
        except NotStored:
            raise NotFound(f"the content of result {result_id[:80]!r} is gone") from None
        if response.status_code >= 400:
            return response
        response.headers["Content-Type"] = found.media_type
        return hostile(response, found.media_type, found.name)

    return blueprint


def _from_store(parts: Parts, found: Found) -> bool:
    """Whether the object store is to send the bytes itself.

    Not where a browser might run them, as the store adds no headers of ours; not for HEAD, which signed
    links refuse; not for Basic auth, which some clients repeat at the link's host.
    """
    return (
        parts.redirect_bytes > 0
        and found.redirectable
        and found.stored.size >= parts.redirect_bytes
        and request.method == "GET"
        and not request.environ.get("HTTP_AUTHORIZATION", "").lower().startswith("basic")
        and _SCRIPTABLE.match(found.media_type) is None
    )


def hostile(response: Response, media_type: str, name: str) -> Response:
    """Mark content of users so that no browser runs it with our origin.

    Scripts in it could do here whatever the person may who looks at it.
    """
    short = name.rpartition("/")[2][:150]
    plain = _UNFIT.sub("_", short) or "file"
    kind = "attachment" if _SCRIPTABLE.match(media_type) else "inline"
    exact = quote(short, safe="", errors="replace")
    response.headers["Content-Disposition"] = f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{exact}"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "private, no-cache")
    return response
