"""The plainest of clients: requests as a test writes them, answers as they come; nothing is followed."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPMessage
from urllib.parse import urlencode, urlsplit

from tests.waiting import PATIENCE, until

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
"""A query of the service ``variables`` that never ends."""

FORGOTTEN = (
    ":ResourceWarning",
    "Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
    "Exception ignored while finalizing socket:pytest.PytestUnraisableExceptionWarning",
)
"""Warnings, as pytest filters them, of clients that leave their connections open."""


def in_days(days: int) -> str:
    """An instant that many days from now, in whole seconds, as UWS writes them."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came: nothing was followed."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def location(self) -> str:
        return str(self.headers["Location"])


@dataclass(frozen=True, slots=True)
class Client:
    """Requests byte by byte as a test writes them."""

    base: str

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, url: str, **headers: str) -> Answer:
        return self.ask("GET", url, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def post(self, url: str, fields: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> Answer:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", url, urlencode(fields), form)

    def create(self, service: str, fields: Mapping[str, str]) -> str:
        """The URL of a new job."""
        answer = self.post(f"{self.base}/{service}/async", fields)
        assert answer.status == 303, answer.text
        return answer.location

    def upload(self, service: str, files: Mapping[str, bytes], fields: Mapping[str, str]) -> str:
        """The URL of a new job with files."""
        body = b""
        for name, value in fields.items():
            body += f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, content in files.items():
            head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.py"\r\n\r\n'
            body += head.encode() + content + b"\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = self.ask("POST", f"{self.base}/{service}/async", body + b"--x--\r\n", headers)
        assert answer.status == 303, answer.text
        return answer.location

    def script(self, code: str, **fields: str) -> str:
        """The URL of a new job of the service ``script``."""
        return self.upload("script", {"script": code.encode()}, fields)

    def phase(self, job: str) -> str:
        return self.get(f"{job}/phase").text

    def until(self, job: str, *phases: str) -> str:
        """Wait until a job is in one of these phases."""

        def look() -> str:
            if (phase := self.phase(job)) in phases:
                return phase
            self.get(f"{job}?WAIT=5&PHASE={phase}")
            return ""

        return until(look, lambda: f"{phases}: {self.get(job).text}")

    def done(self, job: str) -> str:
        return self.until(job, "COMPLETED", "ERROR", "ABORTED")
