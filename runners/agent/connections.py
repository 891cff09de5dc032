"""HTTP for the agent: the standard library's client, which is quick to import, and connections that are kept.

Bodies are streamed both ways in bounded memory. Redirects and new tries are the caller's business.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from threading import Lock
from urllib.parse import quote, urlsplit

from uws_server.domain.wire import OWN_WORD

CHUNK = 256 * 1024
_PRINTED = "%/?:@!$&'()*+,;=-._~[]"  # in a URL's path and query; all else is escaped
_PORTS = {"http": 80, "https": 443}

_Origin = tuple[str, str, int]


class Broken(Exception):
    """There was no whole answer; the message says why. Another try may get one."""


class Unverified(Exception):
    """The server's certificate does not prove that it is who it should be."""


def anywhere(_address: str) -> None:
    """The plain rule for addresses: any."""


class Answer:
    """What a server answered, its body still on the way."""

    def __init__(self, response: HTTPResponse, release: Callable[[bool], None]) -> None:
        self.status = response.status
        self.reason = response.reason
        self._response = response
        self._release = release
        self._left = response.length  # None when only the end tells

    def header(self, name: str) -> str | None:
        """One header's value."""
        return self._response.headers.get(name)

    @property
    def own(self) -> bool:
        """Whether it is our server's word, not of anybody on the way there."""
        return self.header(OWN_WORD[0]) == OWN_WORD[1]

    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait: it gives a number of them, or an instant."""
        header = self.header("Retry-After")
        if header is None or header.strip().isdecimal():
            return float(header) if header else None
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
        except ValueError:
            return None

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes.

        :raises Broken: it is cut off, or does not come.
        """
        whole = False
        try:
            while chunk := self._response.read1(CHUNK if self._left is None else min(CHUNK, self._left)):
                if self._left is not None:
                    self._left -= len(chunk)
                yield chunk
            whole = not self._left
        except TimeoutError:
            raise Broken("the server took too long") from None
        except (OSError, HTTPException) as error:
            raise Broken("the connection broke") from error
        finally:
            self._end(whole)
        if not whole:
            raise Broken("the connection broke")

    def text(self, most: int) -> bytes:
        """The body, of which no more than so many bytes are wanted.

        :raises Broken: it is cut off, or does not come.
        """
        text = b""
        for chunk in self.chunks():
            text += chunk
            if len(text) >= most:
                break
        return text[:most]

    def close(self) -> None:
        """Do without the rest."""
        self._end(whole=False)

    def _end(self, whole: bool) -> None:
        self._response.close()
        self._release(whole and not self._response.will_close)
        self._release = lambda _: None


class Connections:
    """Connections by origin, each used by one thread at a time. Certificates are verified.

    ``permit`` is asked about every address that a name stands for, before any of them is connected to; its
    exception goes on to the caller. The name is not looked up again: what was permitted is connected to.
    """

    def __init__(self, permit: Callable[[str], None] = anywhere) -> None:
        self._permit = permit
        self._lock = Lock()
        self._idle: dict[_Origin, list[HTTPConnection]] = {}
        self._tls: ssl.SSLContext | None = None

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
        *,
        connect: float,
        silence: float,
    ) -> Answer:
        """One request, its answer's body not yet read. ``connect`` and ``silence`` in seconds.

        A ``body`` in chunks needs its Content-Length among the headers; what it raises goes on to the caller.

        :raises Broken: there was no answer.
        :raises Unverified: see there.
        :raises ValueError: that is no http or https URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("no http or https URL")
        origin = (parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
        target = quote(parts.path or "/", _PRINTED, errors="strict")
        if parts.query:
            target += "?" + quote(parts.query, _PRINTED, errors="strict")
        connection = self._connection(origin, connect)
        whole = False
        try:
            connection.sock.settimeout(silence)
            # It may have answered, and closed, before it took all of the body.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, dict(headers))
                whole = True
            response = connection.getresponse()
        except TimeoutError:
            connection.close()
            raise Broken("the server took too long") from None
        except (OSError, HTTPException) as error:
            connection.close()
            raise Broken("the connection broke") from error
        except BaseException:
            connection.close()
            raise
        return Answer(response, lambda kept: self._release(origin, connection, kept=kept and whole))

    def _release(self, origin: _Origin, connection: HTTPConnection, *, kept: bool) -> None:
        if kept:
            with self._lock:
                self._idle.setdefault(origin, []).append(connection)
        else:
            connection.close()

    def _connection(self, origin: _Origin, connect: float) -> HTTPConnection:
        while (kept := self._kept(origin)) is not None:
            if not select.select([kept.sock], [], [], 0)[0]:  # else it was closed, or speaks unasked
                return kept
            kept.close()
        try:
            return self._connected(*origin, connect)
        except socket.gaierror as error:
            raise Broken("there is no such host") from error
        except ssl.SSLCertVerificationError as error:
            raise Unverified from error
        except ssl.SSLError as error:
            raise Broken("the encrypted connection failed") from error
        except TimeoutError as error:
            raise Broken("the server took too long") from error
        except OSError as error:
            raise Broken("the server does not accept connections") from error
        except InvalidURL as error:
            raise ValueError("no name of a host") from error

    def _kept(self, origin: _Origin) -> HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

    def _connected(self, scheme: str, host: str, port: int, connect: float) -> HTTPConnection:
        if scheme == "http":
            connection = HTTPConnection(host, port)
            connection.sock = self._socket(host, port, connect)
        else:
            context = self._context()
            connection = HTTPSConnection(host, port, context=context)
            plain = self._socket(host, port, connect)
            try:
                connection.sock = context.wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        connection.auto_open = 0  # to connect again is for `_socket` alone
        return connection

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls

    def _socket(self, host: str, port: int, connect: float) -> socket.socket:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in addresses:
            self._permit(str(address[0]))
        fault = OSError("no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(connect)
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            except OSError as error:
                connection.close()
                fault = error
        raise fault
