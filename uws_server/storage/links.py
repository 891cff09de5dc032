"""Signed links to our own ``/storage/v1`` route, for stores that cannot sign any themselves.

A link is a bearer credential for one method on one key until one instant. The signature covers
all of that and the length limit of a PUT, so nothing of it can be changed; it does not cover the
host, so that the same link works behind any proxy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from time import time_ns
from typing import Literal
from urllib.parse import quote, urlencode

ROUTE = "/storage/v1/"

Method = Literal["GET", "PUT"]


class BadLink(Exception):
    """The link does not permit what is asked; the message is one sentence for its holder."""


def now() -> int:
    """Milliseconds since 1970 UTC."""
    return time_ns() // 1_000_000


class Links:
    """Makes and checks signed links.

    ``base_url`` is what the link begins with, such as ``https://archive.example/uws``; empty for
    a link relative to the host that hands it out. ``clock`` gives milliseconds since 1970 UTC.
    """

    def __init__(self, secret: bytes, base_url: str = "", clock: Callable[[], int] = now) -> None:
        if len(secret) < 16:
            raise ValueError("the secret that signs links needs at least 16 bytes")
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def sign(self, method: Method, key: str, seconds: int, limit: int | None = None) -> str:
        """A URL that permits ``method`` on ``key`` for ``seconds``; GET permits HEAD too."""
        expires = str(self._clock() + seconds * 1000)
        bound = "" if limit is None else str(limit)
        query = {"expires": expires, "method": method, "limit": bound}
        query["signature"] = self._signature(method, key, expires, bound)
        return f"{self._base_url}{ROUTE}{quote(key, safe='/')}?{urlencode(query)}"

    def verify(self, method: str, key: str, expires: str, limit: str, signature: str) -> int | None:
        """Check the parts of a link as they came; returns the length limit of a PUT, if it has one.

        :raises BadLink: the signature does not fit, or the link has expired.
        """
        wanted = self._signature("GET" if method == "HEAD" else method, key, expires, limit)
        if not hmac.compare_digest(wanted.encode(), signature.encode(errors="surrogatepass")):
            raise BadLink("This link is not valid for what was asked.")
        # What is signed was written by `sign`, so these are numbers.
        if int(expires) <= self._clock():
            raise BadLink("This link has expired.")
        return int(limit) if limit else None

    def _signature(self, method: str, key: str, expires: str, limit: str) -> str:
        # Unambiguous: what `sign` wrote has these newlines and no others, so no other parts give that text.
        text = f"storage-link-v1\n{method}\n{expires}\n{limit}\n{key}"
        return hmac.new(self._secret, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
