"""GET requests that are bounded in time and bytes, and go only where they may.

The standard library's client over a socket of our own: its time-outs count from the last byte, so that an
answer of a byte now and then would never end; and an address that was judged is the one connected to.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from uws_server.domain.addresses import forbidden, public

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_CHUNK = 64 * 1024


class Away(Exception):
    """There is no whole answer just now.

    ``pause``: seconds that who answered asks to wait, 0 for no word. ``answered``: it did, and what it says
    need not hold for anything else that it is asked.
    """

    def __init__(self, message: str, pause: float = 0.0, *, answered: bool = False) -> None:
        super().__init__(message)
        self.pause = pause
        self.answered = answered


class Never(Exception):
    """It is not asked, or what it answers is not read further: another try will end like this one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Of an URL.

        :raises ValueError: it is no http or https one.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
            raise ValueError(f"{url!r} is no plain http or https URL")
        return cls(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and who gave it: the last of those that a redirect led to.

    Names in ``headers`` are in lower case; the values of one name are joined.
    """

    origin: Origin
    status: int
    headers: Mapping[str, str]
    body: bytes


class BoundedHttp:
    """Asks hosts, none of them at a link-local or metadata address.

    Only those of ``named``, which the operator has listed, may be at private addresses or without TLS. The
    values are files with the certificates of authorities to trust there, or None for the system's.
    """

    def __init__(self, named: Mapping[Origin, Path | None]) -> None:
        self._named = dict(named)

    def get(self, url: str, headers: Mapping[str, str], most: int, until: float) -> Answer:
        """One answer, after at most three redirects, on which ``Authorization`` goes to no other origin.

        :param most: bytes of body that are taken.
        :param until: the monotonic clock's instant at which it is given up. Looking up a host's address is
            extra: the system's resolver takes the time that its own settings give it.
        :raises Away: see there.
        :raises Never: see there.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                origin = Origin.of(url)
            except ValueError as error:
                raise Never(str(error)) from error
            if origin.scheme == "http" and origin not in self._named:
                raise Never(f"{origin} would be asked without encryption, which the site does not permit")
            answer = self._ask(origin, url, headers, most, until)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            try:
                url = urljoin(url, location)
            except ValueError as error:
                raise Never(f"{origin} redirects to an address that is none") from error
            if not _same(url, origin):
                headers = {name: text for name, text in headers.items() if name != "Authorization"}
        raise Never(f"it redirects more than {_MOST_REDIRECTS} times")

    def _ask(self, origin: Origin, url: str, headers: Mapping[str, str], most: int, until: float) -> Answer:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = HTTPConnection(origin.host, origin.port)
        connection.auto_open = 0  # to connect is for `_connected` alone
        try:
            with self._connected(origin, until) as plain:
                connection.sock = _Timed(plain, until)
                sent = {"Host": str(origin), "Connection": "close", "Accept-Encoding": "identity"}
                connection.request("GET", target, headers={**sent, **headers})
                response = connection.getresponse()
                body = _body(response, origin, most)
                return Answer(origin, response.status, _joined(response.getheaders()), body)
        except TimeoutError as error:
            raise Away(f"{origin} takes too long to answer") from error
        except InvalidURL as error:
            raise Never(f"{origin} is asked for an address that is none") from error
        except (OSError, HTTPException) as error:  # before ValueError: a wrong certificate is both
            raise Away(f"{origin} does not answer: {error}") from error
        except ValueError as error:
            raise Never(f"{origin} is asked for an address that is none") from error

    def _connected(self, origin: Origin, until: float) -> socket.socket:
        encryption = self._encryption(origin) if origin.scheme == "https" else None
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            self._permit(origin, str(address[0]))
        fault = OSError("it has no address")
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_left(until))
                connection.connect(address)
                if encryption is None:
                    return connection
                connection.settimeout(_left(until))
                return encryption.wrap_socket(connection, server_hostname=origin.host)
            except OSError as error:
                connection.close()
                fault = error
        raise fault

    def _permit(self, origin: Origin, address: str) -> None:
        if forbidden(address) or not (origin in self._named or public(address)):
            raise Never(f"{origin} is at an address where the site's settings permit no request")

    def _encryption(self, origin: Origin) -> ssl.SSLContext:
        authorities = self._named.get(origin)
        try:
            context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
        except OSError as error:
            raise Away(f"the certificates in {authorities} cannot be read: {error}") from error
        # Python 3.13 refuses authorities without the extensions of RFC 5280, such as many sites have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class _Timed:
    """A socket for `HTTPConnection` that is given up at an instant, however often a byte comes."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._socket = connection
        self._until = until

    def sendall(self, content: bytes) -> None:
        self._socket.settimeout(_left(self._until))
        self._socket.sendall(content)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self._socket, lambda: _left(self._until)))

    def close(self) -> None:
        """Not yet: the client says so once it has the header."""


class _Reading(io.RawIOBase):
    def __init__(self, connection: socket.socket, left: Callable[[], float]) -> None:
        self._socket = connection
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._left())
        return self._socket.recv_into(buffer)


def _body(response: HTTPResponse, origin: Origin, most: int) -> bytes:
    length, body = response.length, bytearray()
    while length is None or len(body) < length:
        chunk = response.read1(_CHUNK)
        body += chunk
        if len(body) > most:
            raise Never(f"{origin} answers with more than {most} bytes")
        if not chunk:
            break
    if length is not None and len(body) < length:
        raise Away(f"the answer of {origin} broke off", answered=True)
    return bytes(body)


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in headers:
        key = name.lower()
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _same(url: str, origin: Origin) -> bool:
    try:
        return Origin.of(url) == origin
    except ValueError:
        return False
