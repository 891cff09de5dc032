"""The agent's way to the server: one token, links bought for single objects, and patience.

The web may restart at any time and a store may be slow: a call that fails for such a reason is
made again until the patience or the deadline ends. Only a clear refusal is an answer, and only our
own door can say that an attempt is fenced off: a proxy in front of a web that is just being started
answers 404 as well, and whoever takes its word gives up a job that is done.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import HTTPError

from runners.agent.attempt_dir import Access
from uws_server.domain.wire import LINKS, MANIFEST, OWN_WORD, PROGRESS, Link, Wanted

_CONNECT = 5.0  # s
_ANSWER = 30.0  # s
_LONGEST_PAUSE = 5.0  # s, without the server's own word
_LONGEST_RETRY_AFTER = 60.0  # s
_EXPIRED_LINKS = 3
_FOREIGN = frozenset({401, 403, 404})  # without that header: of anybody on the way to the door


class Fenced(Exception):
    """This attempt is no longer wanted: it is not the current one, or its job is gone."""


class Refused(Exception):
    """The server said no for good; the message is its sentence."""


class Away(Exception):
    """The server did not answer for as long as our patience lasts."""


class DeadlinePassed(Exception):
    """The time that was left after SIGTERM is over."""


@dataclass(slots=True)
class _Instant:
    """An instant of the monotonic clock, and whether anybody has set it."""

    at: float = float("inf")
    known: threading.Event = field(default_factory=threading.Event)


class Deadline:
    """An instant, at first never, that a signal may set while others wait."""

    def __init__(self, instant: _Instant | None = None, less: float = 0.0) -> None:
        self._instant = instant or _Instant()
        self._less = less

    def set(self, seconds: float) -> None:
        """Let it be in so many seconds from now."""
        self._instant.at = time.monotonic() + seconds
        self._instant.known.set()

    @property
    def near(self) -> bool:
        """Whether it has been set."""
        return self._instant.known.is_set()

    def less(self, seconds: float) -> Deadline:
        """A deadline that always comes so much before this one."""
        return Deadline(self._instant, self._less + seconds)

    def left(self) -> float:
        """Seconds until then, at most an hour.

        :raises DeadlinePassed: there are none.
        """
        left = self._instant.at - self._less - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return min(left, 3600.0)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the deadline.

        :raises DeadlinePassed: it came first.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.near:
                time.sleep(min(left, self.left()))
            else:
                self._instant.known.wait(left)


class Door:
    """The client of ``/agent/v1``."""

    def __init__(self, access: Access, deadline: Deadline, threads: int = 1) -> None:
        self._base = access.url.rstrip("/") + "/"
        self._token = access.token
        self._patience = access.patience_seconds
        self._deadline = deadline
        self._pool = urllib3.PoolManager(maxsize=threads, retries=False, cert_reqs="CERT_REQUIRED")

    def links(self, wanted: Sequence[Wanted]) -> list[Link]:
        """Buy links, at most `MOST_LINKS`, in the order asked for."""
        objects = [asdict(one) for one in wanted]
        answer = self._persist(lambda: self._post(LINKS, {"objects": objects}))
        links = json.loads(answer.data)["links"]
        return [Link(urljoin(self._base, link["url"]), dict(link.get("headers") or {})) for link in links]

    def progress(self, done: int, of: int) -> bool:
        """Report progress, once: whether it arrived. A later report makes up for a lost one."""
        try:
            answer = self._post(PROGRESS, {"done": done, "of": of})
        except HTTPError:
            return False
        return answer.status < 300 or not _check(answer)

    def manifest(self, document: dict[str, Any]) -> None:
        """Hand in the manifest."""
        self._persist(lambda: self._post(MANIFEST, document))

    def put(
        self,
        wanted: Wanted,
        content: Callable[[], Iterable[bytes]],
        media_type: str = "application/octet-stream",
        link: Link | None = None,
    ) -> None:
        """Store one object of exactly ``wanted.size`` bytes; ``content`` is called for each try.

        A link that was not bought just before may have expired; another one is bought then, and
        the door says whether that is still permitted.
        """
        expired = 0

        def attempt() -> urllib3.BaseHTTPResponse | None:
            nonlocal link, expired
            current, link = link or self.links([wanted])[0], None
            headers = {"Content-Type": media_type, **current.headers, "Content-Length": str(wanted.size)}
            answer = self._request("PUT", current.url, content(), headers)
            if answer.status in {401, 403}:
                expired += 1
                if expired <= _EXPIRED_LINKS:
                    return None
                raise Refused(f"the object store does not take its own link for {wanted.name}")
            return answer

        self._persist(attempt, "the object store")

    def _post(self, path: str, body: dict[str, Any]) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        answer = self._request("POST", self._base + path, json.dumps(body).encode(), headers)
        if answer.status in {403, 404} and _is_our_doors(answer):
            raise Fenced(_sentence(answer))
        return answer

    def _request(
        self, method: str, url: str, body: bytes | Iterable[bytes], headers: dict[str, str]
    ) -> urllib3.BaseHTTPResponse:
        left = self._deadline.left()
        timeout = urllib3.Timeout(connect=min(_CONNECT, left), read=min(_ANSWER, left))
        return self._pool.request(method, url, body=body, headers=headers, timeout=timeout, redirect=False)

    def _persist(
        self, attempt: Callable[[], urllib3.BaseHTTPResponse | None], who: str = "the server"
    ) -> urllib3.BaseHTTPResponse:
        """Try until there is an answer that counts. An attempt that gives None wants another one at once."""
        began = time.monotonic()
        failures = 0
        while True:
            pause = None
            try:
                answer = attempt()
                if answer is None:
                    continue
                if not _check(answer):
                    return answer
                reason = f"{who} answered {answer.status}"
                pause = retry_after(answer.headers.get("Retry-After"))
            except HTTPError as error:
                reason = f"{who} could not be reached ({type(error).__name__})"
            if time.monotonic() - began >= self._patience:
                raise Away(f"{reason} for {self._patience:.0f} s")
            failures += 1
            self._deadline.pause(min(pause, _LONGEST_RETRY_AFTER) if pause is not None else backoff(failures))


def backoff(failures: int, longest: float = _LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures in a row; spread, so that many agents do not come at once."""
    return min(longest, 0.1 * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for: a number of them, or an instant."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _check(answer: urllib3.BaseHTTPResponse) -> bool:
    """Whether to try again.

    :raises Refused: the answer is a clear no.
    """
    if answer.status < 300:
        return False
    if answer.status in {408, 425, 429} or answer.status >= 500:
        return True
    if answer.status in _FOREIGN and not _is_our_doors(answer):
        return True
    raise Refused(f"{answer.status}: {_sentence(answer)}")


def _is_our_doors(answer: urllib3.BaseHTTPResponse) -> bool:
    return answer.headers.get(OWN_WORD[0]) == OWN_WORD[1]


def _sentence(answer: urllib3.BaseHTTPResponse) -> str:
    return " ".join(answer.data[:300].decode(errors="replace").split()).rstrip(".")
