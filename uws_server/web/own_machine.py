"""A server for one's own machine, kept from web pages of others.

Where whoever reaches the port may run code, and only this machine's people can reach it, a browser of
theirs is the way in: any page that it shows can post a form to a port of this machine. Programs send neither
of the headers looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uws_server.domain.errors import Forbidden

_HARMLESS = frozenset({"GET", "HEAD"})


def refuse_foreign_pages(environ: Mapping[str, Any]) -> None:
    """See that a request is no web page's of somebody else.

    :raises Forbidden: a browser says that it changes something for another site.
    """
    if environ["REQUEST_METHOD"] in _HARMLESS and not environ["PATH_INFO"].rstrip("/").endswith("/sync"):
        return
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is None:
        origin = environ.get("HTTP_ORIGIN")
        ours = origin is None or origin.partition("://")[2] == environ.get("HTTP_HOST", "")
    else:
        ours = site in {"same-origin", "none"}
    if not ours:
        raise Forbidden("this server is for its own machine: pages of other sites can change nothing here")
