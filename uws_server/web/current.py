"""The request that is being answered: who makes it, which addresses it sees, which format it likes."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, request

from uws_server.domain.caller import Caller
from uws_server.domain.job import Job
from uws_server.web.addresses import Addresses, of_request
from uws_server.web.answers import document, redirect
from uws_server.web.negotiate import wants_json
from uws_server.web.parts import Parts

XML = "text/xml; charset=utf-8"
JSON = "application/json"


class Current:
    """The current request of Flask's. One object per application; it holds no state of any request."""

    def __init__(self, parts: Parts) -> None:
        self._authenticator = parts.authenticator
        self._addresses = Addresses(parts.base_url.rstrip("/")) if parts.base_url else None

    def caller(self) -> Caller:
        """Who makes it."""
        return self._authenticator.authenticate(request.headers.get)

    def addresses(self) -> Addresses:
        """Addresses as its client is to see them."""
        return self._addresses or of_request(request.environ)

    def wants_json(self) -> bool:
        """Whether its client likes JSON better than XML."""
        return wants_json(request.environ.get("HTTP_ACCEPT"))

    def to_job(self, service: str, job_id: str) -> Response:
        """Lead the client to a job."""
        return redirect(self.addresses().job(service, job_id))

    def document(
        self, job: Job, xml: Callable[[Job, Addresses], bytes], json: Callable[[Job, Addresses], bytes]
    ) -> Response:
        """A document about a job, in the format that the client likes."""
        if self.wants_json():
            return document(json(job, self.addresses()), JSON)
        return document(xml(job, self.addresses()), XML)
