"""The few requests that we make of an API server, with the documents as they come.

The official client does the ways in (kubeconfig, service account, exec plug-ins, client certificates) and
the connections. Its models are passed over: a page of 500 pods takes seconds and much memory through them.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes import client, config
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from runners.base import Unreachable

Document = dict[str, Any]

_PAGE = 500
_CONNECT = 5.0  # s
_ANSWER = 30.0  # s; also for silence within an answer
_MESSAGE = 500  # characters of an API server's own words


class ApiRefusal(Exception):
    """The API server said no. ``status`` is the HTTP status, ``retry_after`` seconds or None."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Cluster:
    """An API server, as one kubeconfig context or the pod's own service account reaches it."""

    def __init__(self, kubeconfig: str = "", context: str = "", connections: int = 12) -> None:
        """:raises ConfigException: there is no such file or context, or it cannot be used."""
        settings = client.Configuration()
        if kubeconfig or context:
            config.load_kube_config(
                config_file=kubeconfig or None, context=context or None, client_configuration=settings
            )
        else:
            try:
                config.load_incluster_config(client_configuration=settings)
            except ConfigException:
                config.load_kube_config(client_configuration=settings)
        settings.connection_pool_maxsize = connections
        settings.retries = False
        self._api = client.ApiClient(settings)
        # Python 3.13 refuses authorities without the extensions of RFC 5280, such as many clusters have.
        tls = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE)
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._api.rest_client.pool_manager.connection_pool_kw["ssl_context"] = tls

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._api.configuration.host)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Document:
        """One request; the document that answers it.

        :raises ApiRefusal: an answer other than 2xx.
        :raises Unreachable: no answer.
        """
        response = self._request(method, path, body, content_type, query, (_CONNECT, _ANSWER))
        try:
            document: Document = json.loads(response.read())
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"the API server's answer broke off: {error}") from error
        return document

    def pages(self, path: str, **query: str) -> Iterator[Document]:
        """A list, page by page; each page is a document with ``items`` and ``metadata``.

        :raises ApiRefusal: 410 when the list has become too old between two pages.
        :raises Unreachable: no answer.
        """
        more: dict[str, str] = {}
        while True:
            page = self.call("GET", path, limit=str(_PAGE), **query, **more)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            more = {"continue": token}

    def watch(self, path: str, version: str, seconds: int, **query: str) -> Iterator[tuple[str, Document]]:
        """What happens after ``version``: event type and document, for at most ``seconds``.

        :raises ApiRefusal: 410 when the API server does not know so far back.
        :raises Unreachable: no answer, or it broke off.
        """
        query |= {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "allowWatchBookmarks": "true",
        }
        # The API server ends it in time, so that longer silence is a dead connection.
        response = self._request("GET", path, None, "application/json", query, (_CONNECT, seconds + _CONNECT))
        rest = b""
        try:
            for chunk in response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    document = event["object"]
                    if event["type"] == "ERROR":
                        status = int(document.get("code", 500))
                        raise ApiRefusal(
                            status, document.get("reason", ""), document.get("message", ""), None
                        )
                    yield event["type"], document
        except (HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"the API server's news broke off: {error}") from error
        finally:
            response.close()

    def close(self) -> None:
        """Let go of all connections."""
        self._api.close()

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str,
        query: Mapping[str, str],
        timeout: tuple[float, float],
    ) -> Any:
        headers = {"Accept": "application/json"} | (
            {"Content-Type": content_type} if body is not None else {}
        )
        parts = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*parts, _request_timeout=timeout).response
            if response.status < 300:
                return response
            said = response.read()
        except (client.ApiException, HTTPError, OSError) as error:
            raise Unreachable(f"the API server does not answer: {error}") from error
        raise _refused(response, said)


def _refused(response: Any, said: bytes) -> ApiRefusal:
    try:
        status = json.loads(said)
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
        details = status.get("details") or {}
    except (ValueError, AttributeError):
        reason, message, details = "", said[:_MESSAGE].decode(errors="replace"), {}
    after = response.headers.get("Retry-After") or details.get("retryAfterSeconds")
    try:
        seconds = float(after) if after is not None else None
    except ValueError:
        seconds = None
    words = message[:_MESSAGE] or f"HTTP status {response.status}"
    return ApiRefusal(response.status, reason, words, seconds)
