"""The agent's way to the server: one token, links bought for single objects, and patience.

The web may restart at any time and a store may be slow: a call that fails for such a reason is
made again until the patience or the deadline ends. Only a clear refusal is an answer, and only our
own server can say that an attempt is fenced off (`wire.OWN_WORD`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urljoin

from runners.agent.attempt_dir import Access
from runners.agent.connections import Answer, Broken, Connections, Unverified
from runners.agent.deadline import Deadline, backoff
from uws_server.domain.wire import (
    BEGIN,
    COMPLETE,
    LINKS,
    MANIFEST,
    MESSAGE_BYTES,
    PARTS,
    PROGRESS,
    SPEC_BYTES,
    STARTED,
    Link,
    PartLink,
    Upload,
    Wanted,
    WantedParts,
)

_CONNECT = 5.0  # s
_ANSWER = 30.0  # s
_PUTTING_TOGETHER = 600.0  # s; a store that keeps objects in files copies all the parts
_LONGEST_RETRY_AFTER = 60.0  # s
_EXPIRED_LINKS = 3
_SENTENCE = 300  # bytes
# What anybody on the way may answer: a proxy whose web is just being started, a log-in page.
_FOREIGN = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 407})


class Fenced(Exception):
    """This attempt is no longer wanted: it is not the current one, or its job is gone."""


class Refused(Exception):
    """The server said no for good; the message is its sentence."""


class PartsMissing(Refused):
    """Parts of an object are to be sent first."""


class Away(Exception):
    """The server did not answer for as long as our patience lasts."""


class Door:
    """The client of ``/agent/v1``, and of the links that are bought there."""

    def __init__(self, access: Access, deadline: Deadline) -> None:
        self._base = access.url.rstrip("/") + "/"
        self._token = access.token
        self._patience = access.patience_seconds
        self._deadline = deadline
        self._connections = Connections()

    def links(self, wanted: Sequence[Wanted]) -> list[Link]:
        """Buy links, at most `wire.MOST_LINKS`, in the order asked for."""
        message = {"objects": [asdict(one) for one in wanted]}
        links = json.loads(self._persist(lambda: self._post(LINKS, message)))["links"]
        return [
            Link(urljoin(self._base, link["url"]), link["headers"], link.get("parts", False))
            for link in links
        ]

    def parts(self, wanted: WantedParts) -> Upload:
        """Begin to store an object in parts, or go on with it: links to the next parts that are missing."""
        given = json.loads(self._persist(lambda: self._post(PARTS, asdict(wanted))))
        return Upload(given["upload"], [PartLink(**link) for link in given["missing"]])

    def put_part(self, link: PartLink, content: Iterable[bytes]) -> str:
        """Store one part, once: empty, or why it is not there, which may be over by the next try.

        That needs new links: a store says in many ways that one has expired, or its upload ended.
        """
        headers = {"Content-Length": str(link.size)}
        try:
            answer = self._ask("PUT", link.url, headers, content)
            answer.text(_SENTENCE)
        except Broken as error:
            return f"could not be reached ({error})"
        except Unverified:
            return "could not be reached (its certificate could not be verified)"
        return "" if answer.status < 300 else f"answered {answer.status}"

    def complete(self, wanted: WantedParts) -> None:
        """Have an object put together of its parts.

        :raises PartsMissing: they are not there, or no longer.
        """
        self._persist(lambda: self._post(COMPLETE, asdict(wanted), silence=_PUTTING_TOGETHER))

    def begin(self, place: str) -> str:
        """Ask to begin the attempt in this place, such as a pod: its run spec as JSON."""
        answer = self._persist(lambda: self._post(BEGIN, {"place": place}), most=SPEC_BYTES)
        return str(json.loads(answer)["spec"])

    def started(self, at: int) -> bool:
        """Report that the user's code has started, in milliseconds since 1970 UTC: whether it arrived."""
        try:
            return _outcome(self._post(STARTED, {"at": at})) is not None
        except (Broken, Unverified):
            return False

    def progress(self, done: int, of: int) -> bool:
        """Report progress, once: whether it arrived. A later report makes up for a lost one."""
        try:
            return _outcome(self._post(PROGRESS, {"done": done, "of": of})) is not None
        except (Broken, Unverified):
            return False

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

        def attempt() -> Answer | None:
            nonlocal link, expired
            current, link = link or self.links([wanted])[0], None
            headers = {"Content-Type": media_type, **current.headers, "Content-Length": str(wanted.size)}
            answer = self._ask("PUT", current.url, headers, content())
            if answer.status != 403 or not answer.own:
                return answer
            answer.close()
            expired += 1
            if expired > _EXPIRED_LINKS:
                raise Refused(f"the object store does not take its own link for {wanted.name}")
            return None

        self._persist(attempt, "the object store")

    def get(self, name: str, headers: Mapping[str, str], silence: float) -> Answer:
        """Begin to read one object.

        :raises Broken: there was no answer; the caller has patience of its own.
        """
        link = self.links([Wanted("GET", name)])[0]
        return self._connections.ask(
            "GET", link.url, {**headers, **link.headers}, connect=_CONNECT, silence=silence
        )

    def _post(self, path: str, message: dict[str, Any], silence: float = _ANSWER) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        answer = self._ask("POST", self._base + path, headers, json.dumps(message).encode(), silence)
        if answer.status in {403, 404} and answer.own:
            raise Fenced(_sentence(answer))
        return answer

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes],
        silence: float = _ANSWER,
    ) -> Answer:
        left = self._deadline.left()
        return self._connections.ask(
            method, url, headers, body, connect=min(_CONNECT, left), silence=min(silence, left)
        )

    def _persist(
        self, attempt: Callable[[], Answer | None], who: str = "the server", most: int = MESSAGE_BYTES
    ) -> bytes:
        """The body of the first answer that counts. An attempt that gives None is made again at once."""
        began = time.monotonic()
        failures = 0
        while True:
            pause = None
            try:
                answer = attempt()
                if answer is None:
                    continue
                body = _outcome(answer, most)
                if body is not None:
                    return body
                reason = f"{who} answered {answer.status}"
                pause = answer.retry_after()
            except Broken as error:
                reason = f"{who} could not be reached ({error})"
            except Unverified:
                reason = f"{who} could not be reached (its certificate could not be verified)"
            if time.monotonic() - began >= self._patience:
                raise Away(f"{reason} for {self._patience:.0f} s")
            failures += 1
            self._deadline.pause(min(pause, _LONGEST_RETRY_AFTER) if pause is not None else backoff(failures))


def _outcome(answer: Answer, most: int = MESSAGE_BYTES) -> bytes | None:
    """The body of an answer that says yes; None when it is worth to ask again.

    :raises Refused: the answer is a clear no; `PartsMissing` is one.
    """
    if answer.status < 300:
        return answer.text(most)
    if (
        answer.status in {408, 425, 429}
        or answer.status >= 500
        or (answer.status in _FOREIGN and not answer.own)
    ):
        answer.text(_SENTENCE)  # so that its connection can serve again
        return None
    kind = PartsMissing if answer.status == 412 and answer.own else Refused
    raise kind(f"{answer.status}: {_sentence(answer)}")


def _sentence(answer: Answer) -> str:
    return " ".join(answer.text(_SENTENCE).decode(errors="replace").split()).rstrip(".")
