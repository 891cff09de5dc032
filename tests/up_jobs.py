"""A client of a running `up` for tests, and what it takes to say that nothing of a job is left."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from runners.local import cgroups
from tests.up_process import UpProcess
from tests.waiting import PATIENCE, until

FINAL = {"COMPLETED", "ERROR", "ABORTED"}
PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


@dataclass(frozen=True)
class Answer:
    """What came back: also for a refusal."""

    status: int
    body: bytes
    url: str

    @property
    def text(self) -> str:
        return self.body.decode()


def notebook(*cells: str, metadata: Mapping[str, Any] = PYTHON) -> bytes:
    """A notebook with these code cells."""
    code: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(cells)
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": code}).encode()


class UpJobs:
    """Jobs of one `up`, over HTTP."""

    def __init__(self, up: UpProcess) -> None:
        self.up = up

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask for a path or URL."""
        url = path if "://" in path else f"{self.up.url}{path}"
        request = urllib.request.Request(
            url, body, {name.replace("_", "-"): v for name, v in headers.items()}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Answer(answer.status, answer.read(), answer.url)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, refusal.read(), url)

    def post(self, service: str, file: bytes | None = None, **words: str) -> Answer:
        """Ask for a job: ``file`` is the notebook or the script."""
        words = {"PHASE": "RUN", **words}
        if file is None:
            return self.ask(f"/{service}/async", urlencode(words).encode())
        head = f'Content-Disposition: form-data; name="{service}"; filename="f"'
        body = f"--xyz\r\n{head}\r\n\r\n".encode() + file + b"\r\n--xyz--\r\n"
        kind = "multipart/form-data; boundary=xyz"
        return self.ask(f"/{service}/async?{urlencode(words)}", body, Content_Type=kind)

    def submit(self, service: str, file: bytes | None = None, **words: str) -> str:
        """Run a job; its URL."""
        answer = self.post(service, file, **words)
        assert answer.status == 200, answer.text
        return answer.url

    def look(self, job: str) -> dict[str, Any]:
        """The job as JSON."""
        found: dict[str, Any] = json.loads(self.ask(job, Accept="application/json").body)
        return found

    def reach(self, job: str, *phases: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The job once it has one of these phases and is not finalising."""

        def there() -> bool:
            found = self.look(job)
            return found["phase"] in phases and not found["finalising"]

        until(there, f"{phases} of {job}", seconds)
        return self.look(job)

    def result(self, job: str, name: str) -> bytes:
        """The content of a result."""
        answer = self.ask(f"{job}/results/{name}")
        assert answer.status == 200, answer.text
        return answer.body

    def executed(self, job: str) -> dict[str, Any]:
        """The executed notebook."""
        found: dict[str, Any] = json.loads(self.result(job, "notebook"))
        return found

    def states(self, job: str) -> list[str]:
        """The states of the cells of the executed notebook."""
        cells = self.executed(job)["cells"]
        marks = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
        return [mark for mark in marks if mark]

    def left_over(self, job: str) -> list[str]:
        """What is still there of a job: processes, directories, control groups."""
        name = job.rpartition("/")[2]
        site = self.up.data / "sites" / "local"
        found = [str(path) for path in site.glob(f"attempts/{name}.*")]
        found += [str(path) for path in (site / "trash").iterdir()]
        for root in {*cgroups.hierarchies().values()}:
            found += [str(path) for path in Path(root).glob(f"*/{name}.*")]
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                for kind in ("cmdline", "environ"):
                    try:
                        text = (process / kind).read_bytes()
                    except OSError:
                        continue
                    if name.encode() in text:
                        found.append(f"{process}: {text[:200]!r}")
        return found

    def gone(self, job: str) -> None:
        """Wait until nothing of the job is left on the machine."""
        until(lambda: not self.left_over(job), f"the end of {job}")
