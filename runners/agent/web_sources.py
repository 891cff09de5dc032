"""Inputs from URLs that users gave.

Redirects are followed by hand, because every hop must be ``http`` or ``https`` to an address that jobs may
reach: never the link-local network, where clouds keep their credentials.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit

from runners.agent.connections import Connections
from runners.agent.download import Never, Part, recorded, shown
from uws_server.domain.addresses import forbidden

_CONNECT = 10.0  # s
_MOST_REDIRECTS = 5


def refuse_address(address: str, denied: tuple[str, ...] = ()) -> None:
    """Check an address that a source's name stands for.

    :raises Never: jobs may not reach it.
    """
    if forbidden(address, denied):
        raise Never("its address is not one that jobs may reach")


class WebSources:
    """Reads ``http`` and ``https`` sources; ``denied`` networks (CIDR) are refused besides the usual ones."""

    def __init__(self, denied: tuple[str, ...], silence: float) -> None:
        self._connections = Connections(lambda address: refuse_address(address, denied))
        self._silence = silence

    def chunks(self, source: str, part: Part) -> Iterator[bytes]:
        """What comes of a source after what ``part`` has already.

        :raises Again: see `Part.rest`.
        :raises Never: see there.
        :raises Broken: the connection did; or see `Connections.ask` for what else.
        """
        url = source
        login = urlsplit(url).netloc.rpartition("@")[0]
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
                raise Never(f"it redirects to {shown(url)}, which is no http or https URL")
            headers = part.wanted()
            # Only the host that the user gave them for gets the user's name and password.
            if login and _origin(url) == _origin(source):
                headers["Authorization"] = f"Basic {b64encode(unquote(login).encode()).decode()}"
            answer = self._connections.ask(
                "GET", recorded(url), headers, connect=_CONNECT, silence=self._silence
            )
            location = answer.header("Location")
            if answer.status not in {301, 302, 303, 307, 308} or location is None:
                yield from part.rest(answer)
                return
            answer.close()
            url = urljoin(url, location)
        raise Never(f"it redirects more than {_MOST_REDIRECTS} times")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname, parts.port
