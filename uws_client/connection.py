"""HTTP as UWS needs it.

Patient where the server asks for it, with a limit on every document, and with a token that is shown
to the server it is for and to no other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from uws_client.errors import NotUws, Refused, Unreachable
from uws_client.printing import printable

DOCUMENT_BYTES = 64 * 1024**2
"""The largest document that is read into memory."""

BUSY_SECONDS = 60.0
"""How long a server may say 429 or 503 before a request is given up."""

_BUSY = frozenset({429, 503})
_GATEWAY = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read whole."""

    url: str
    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def text(self) -> str:
        """The body as text, whatever bytes it has."""
        return self.content.decode("utf-8", "replace")

    @property
    def says(self) -> str:
        """The status, with the server's own words where they are plain text."""
        words = ""
        if self.headers.get("Content-Type", "").startswith("text/plain"):
            words = " ".join(printable(self.text[:2000]).split())[:500]
        return f"{self.status} {HTTPStatus(self.status).phrase if self.status in _KNOWN else ''}".strip() + (
            f": {words}" if words else ""
        )


_KNOWN = frozenset(status.value for status in HTTPStatus)


class Connection:
    """Requests to one server.

    ``token`` goes as a bearer token to the origin of ``server`` alone. ``timeout`` is the longest
    silence, in seconds. ``sleep`` and ``clock`` are replaced in tests. ``on_trouble`` is told each time
    that a request failed and is tried again.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str = "",
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sleep = sleep
        self.clock = clock
        self.on_trouble: Callable[[Unreachable], None] | None = None
        self._origin = origin(server)
        self._token = token
        self._timeout = timeout
        self._client = httpx.Client(
            headers={
                "User-Agent": "uws-job",
                "Accept": "application/xml, text/xml, text/plain;q=0.9, */*;q=0.1",
            },
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back."""
        self._client.close()

    def get(
        self,
        url: str,
        params: list[tuple[str, str]] | None = None,
        *,
        accept: str = "",
        hold: float = 0.0,
        patience: float = 0.0,
    ) -> Answer:
        """A document, redirects followed, read whole.

        ``hold``: seconds that the server may keep silent on top of the usual. ``patience``:
        seconds for which a server that is gone is tried again.

        :raises Refused: the server said no.
        :raises Unreachable: it did not answer.
        """
        headers = {"Accept": accept} if accept else {}

        def once() -> Answer:
            with self._streamed("GET", url, params=params, headers=headers, hold=hold) as response:
                return read_whole(response)

        return self._patiently(once, url, patience, safe=True)

    def send(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, Any] | None = None,
        files: Callable[[ExitStack], list[tuple[str, Any]]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A change; redirects are not followed, so that the caller sees where they point.

        It is sent again only when the server said that it did not take it, or never got it.
        ``files`` opens the files of the form, anew for each try, and leaves closing them to the stack.
        """

        def once() -> Answer:
            with ExitStack() as opened:
                extra: dict[str, Any] = {"data": form or {}}
                if files is not None:
                    extra["files"] = files(opened)
                response = opened.enter_context(
                    self._streamed(method, url, headers=headers, follow=False, **extra)
                )
                return read_whole(response)

        return self._patiently(once, url, 0.0, safe=False)

    def head(self, url: str) -> httpx.Headers:
        """The headers that a GET would have; none where the server does not tell."""
        try:
            with self._streamed("HEAD", url, headers={"Accept-Encoding": "identity"}) as response:
                return response.headers if response.is_success else httpx.Headers()
        except httpx.TransportError:
            return httpx.Headers()

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """Bytes as they come, not decoded by this method; any status is handed to the caller.

        :raises Unreachable: the connection broke, also while the caller was reading.
        """
        # A range counts the bytes that are stored: no content coding in between.
        asked = {"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        try:
            with self._streamed("GET", url, headers=asked) as response:
                yield response
        except httpx.TransportError as error:
            raise Unreachable(f"{url} broke off: {_words(error)}") from error

    @contextmanager
    def _streamed(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        hold: float = 0.0,
        follow: bool = True,
        **extra: Any,
    ) -> Iterator[httpx.Response]:
        if origin(url)[0] not in {"http", "https"}:
            raise NotUws(f"{url[:200]!r} is no http or https address, so it is not fetched")
        request_headers = dict(headers or {})
        if self._token and origin(url) == self._origin:
            request_headers["Authorization"] = f"Bearer {self._token}"
        timeout = httpx.Timeout(self._timeout, read=self._timeout + hold)
        try:
            with self._client.stream(
                method, url, headers=request_headers, follow_redirects=follow, timeout=timeout, **extra
            ) as response:
                yield response
        except httpx.InvalidURL as error:
            raise NotUws(f"{url[:200]!r} is no address: {error}") from error
        except (httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise NotUws(f"{url} gave no usable answer: {_words(error)}") from error

    def _patiently(self, once: Callable[[], Answer], url: str, patience: float, *, safe: bool) -> Answer:
        began = self.clock()
        pause = 0.5
        while True:
            asked: float | None = None
            try:
                answer = once()
            except httpx.TransportError as error:
                trouble = Unreachable(_unreachable(url, error))
                again = safe or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                limit = patience if again else 0.0
            else:
                if answer.status in _BUSY:
                    limit = max(patience, BUSY_SECONDS)
                    asked = _retry_after(answer)
                elif answer.status in _GATEWAY and safe:
                    limit = patience
                else:
                    return _checked(answer)
                later = f"; it asks to come back in {asked:.0f} s" if asked else ""
                trouble = Unreachable(f"{url} answered {answer.says}{later}")
            pause_now = max(pause, asked or 0.0)
            if self.clock() + pause_now - began > limit:
                raise trouble
            if self.on_trouble is not None:
                self.on_trouble(trouble)
            self.sleep(pause_now)
            pause = min(pause * 1.5, 10.0)


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token is for.

    :raises NotUws: the address cannot be understood.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise NotUws(f"{url[:200]!r} is no address: {error}") from error
    return parts.scheme, parts.hostname or "", port


def read_whole(response: httpx.Response, limit: int = DOCUMENT_BYTES) -> Answer:
    """The answer with its body, decoded.

    :raises NotUws: it is longer than ``limit`` bytes, which no document is.
    """
    content = bytearray()
    for chunk in response.iter_bytes(65536):
        content += chunk
        if len(content) > limit:
            raise NotUws(
                f"{response.url} answered with more than {limit} bytes where a document was expected"
            )
    return Answer(str(response.url), response.status_code, response.headers, bytes(content))


def _checked(answer: Answer) -> Answer:
    if answer.status >= 500:
        raise Unreachable(f"{answer.url} answered {answer.says}")
    if answer.status >= 400:
        raise Refused(f"{answer.url} answered {answer.says}", answer.status)
    return answer


def _retry_after(answer: Answer) -> float | None:
    """Seconds the server asks to wait, at most ten minutes; None when it says nothing usable."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text[:9]), 600.0)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), 600.0)


def _unreachable(url: str, error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"{url} cannot be reached: {_words(error)}. Does the server run, and is this its address?"
    if isinstance(error, httpx.TimeoutException):
        return f"{url} did not answer in time; it may be busy, so try again later"
    return f"{url} broke the connection off: {_words(error)}"


def _words(error: Exception) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
