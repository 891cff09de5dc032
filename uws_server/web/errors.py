"""Refusals on the wire: one status, one plain sentence. JSON clients get it as ``{"error": …}``."""

from __future__ import annotations

import json
import logging
import secrets

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from uws_server.domain.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    PartsMissing,
    Refused,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WrongType,
)
from uws_server.storage.base import StorageUnavailable
from uws_server.store.base import StoreUnavailable
from uws_server.web.negotiate import wants_json

_log = logging.getLogger(__name__)

STATUS: dict[type[Refused], int] = {
    BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PartsMissing: 412,
    TooLarge: 413,
    WrongType: 415,
    Unavailable: 503,
}

_RETRY_SECONDS = 5
_SENTENCES = {
    404: "there is nothing at this address",
    405: "this method is not for this address",
    413: "the request is larger than is taken",
}


class TooSlow(Refused):
    """The client does not send what it announced."""


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """The answer to a request that is not carried out; clients show ``text/plain`` to people (DALI-15)."""
    if wants_json(request.environ.get("HTTP_ACCEPT")):
        body, media_type = json.dumps({"error": sentence}), "application/json"
    else:
        body, media_type = sentence, "text/plain; charset=utf-8"
    # Names may hold anything that the client sent, lone surrogates included.
    response = Response(body.encode(errors="replace"), status, content_type=media_type)
    response.headers.update(headers or {})
    return response


def register(app: Flask) -> None:
    """Turn every exception of the application into an answer."""
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(StoreUnavailable, _store_unavailable)
    app.register_error_handler(StorageUnavailable, _storage_unavailable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _broken)


def _refused(error: Refused) -> Response:
    if isinstance(error, TooSlow):
        return refusal(408, str(error), {"Connection": "close"})
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return refusal(status, str(error), headers)


def _store_unavailable(error: StoreUnavailable) -> Response:
    _log.warning("the job store is unavailable: %s", error, extra=_job())
    return refusal(
        503, "the job store does not answer just now; try again", {"Retry-After": str(_RETRY_SECONDS)}
    )


def _storage_unavailable(error: StorageUnavailable) -> Response:
    _log.warning("the object store is unavailable: %s", error, extra=_job())
    return refusal(
        503, "the object store does not answer just now; try again", {"Retry-After": str(_RETRY_SECONDS)}
    )


def _http(error: HTTPException) -> Response:
    answer = error.get_response()
    if answer.status_code < 400:
        return Response(status=answer.status_code, headers=answer.headers)
    headers = {"Allow": answer.headers["Allow"]} if "Allow" in answer.headers else {}
    sentence = _SENTENCES.get(answer.status_code, f"this request cannot be answered: {error.name}")
    return refusal(answer.status_code, sentence, headers)


def _job() -> dict[str, str]:
    """For the log: the job at whose address the request was made, if it is one's."""
    job_id = (request.view_args or {}).get("job_id")
    return {"job": job_id} if job_id else {}


def _broken(error: Exception) -> Response:
    incident = secrets.token_hex(6)
    # What goes to the log stays there: the client gets its number.
    _log.error("incident %s: %s %r", incident, request.method, request.path, exc_info=error, extra=_job())
    return refusal(500, f"the server failed on this request; its log has it as incident {incident}")
