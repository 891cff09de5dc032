"""UWS 1.1 from the client's side: job lists and jobs of any server that speaks it, or 1.0."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from uws_client.connection import Answer, Connection
from uws_client.documents import Job, JobRef, Phase, format_instant, read_job, read_job_list
from uws_client.errors import NotUws, Refused, Unfinished

LOST_SECONDS = 300.0
"""How long `RemoteJob.watch` puts up with a server that is gone."""

FINALISING_SECONDS = 60.0
"""How long `RemoteJob.watch` waits for results that a finished job still announces."""

Sent = Callable[[int, int], None]
"""Told how many bytes of how many have been sent or received."""


@dataclass(frozen=True, slots=True)
class FileValue:
    """A parameter whose value is a file that goes with the job (UWS-56)."""

    name: str
    path: Path


class JobList:
    """A UWS job list."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url.rstrip("/")
        self._connection = connection

    def create(
        self,
        parameters: Iterable[tuple[str, str]] = (),
        files: Sequence[FileValue] = (),
        *,
        run: bool = False,
        run_id: str = "",
        duration: int | None = None,
        destruction: datetime | None = None,
        sent: Sent | None = None,
    ) -> RemoteJob:
        """A new job, PENDING, or on its way with ``run``. Files are read while they are sent.

        :raises Refused: the server does not take it; its sentence says why.
        """
        form: dict[str, list[str]] = {}
        for name, value in parameters:
            form.setdefault(name, []).append(value)
        for number, file in enumerate(files):
            form.setdefault(file.name, []).append(f"param:upload_{number}")
        control = {
            "RUNID": run_id,
            "EXECUTIONDURATION": "" if duration is None else str(duration),
            "DESTRUCTION": "" if destruction is None else format_instant(destruction),
            "PHASE": "RUN" if run else "",
        }
        form.update({name: [value] for name, value in control.items() if value})
        answer = self._connection.send(
            "POST",
            self.url,
            form=form,
            files=_parts(files, sent) if files else None,
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return self.job(_created(answer))

    def read(
        self,
        *,
        phases: Collection[Phase] = (),
        after: datetime | None = None,
        last: int | None = None,
    ) -> tuple[JobRef, ...]:
        """The jobs that the caller may see, as the server orders them.

        A server of UWS 1.0 ignores the filters, so they are applied here too.
        """
        params = [("PHASE", phase.value) for phase in phases]
        if after is not None:
            params.append(("AFTER", format_instant(after)))
        if last is not None:
            params.append(("LAST", str(last)))
        answer = self._connection.get(self.url, params)
        refs: Iterable[JobRef] = read_job_list(answer.content, answer.url)
        if phases:
            refs = (ref for ref in refs if ref.phase in phases)
        if after is not None:
            refs = (ref for ref in refs if ref.created is None or ref.created > after)
        kept = tuple(refs)
        if last is not None and len(kept) > last:
            newest = sorted(
                kept, key=lambda ref: ref.created.timestamp() if ref.created else 0.0, reverse=True
            )
            return tuple(newest[:last])
        return kept

    def job(self, job: str) -> RemoteJob:
        """A job by its id, or by its URL."""
        if "://" in job:
            return RemoteJob(job, self._connection)
        return RemoteJob(f"{self.url}/{quote(job, safe='')}", self._connection)


class RemoteJob:
    """One job at its server. Nothing is kept here: what is read is what the server says now."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url.partition("?")[0].rstrip("/")
        self._connection = connection

    @property
    def id(self) -> str:
        """The last segment of its URL."""
        return self.url.rpartition("/")[2]

    @property
    def connection(self) -> Connection:
        """What its results are fetched with."""
        return self._connection

    def read(self, *, wait: int | None = None, phase: Phase | None = None, patience: float = 0.0) -> Job:
        """The job now; or with ``wait`` once its phase is not ``phase``, at the latest after ``wait`` s."""
        params = [] if wait is None else [("WAIT", str(wait))]
        if wait is not None and phase is not None:
            params.append(("PHASE", phase.value))
        answer = self._connection.get(self.url, params, hold=float(wait or 0), patience=patience)
        return read_job(answer.content, self.url)

    def run(self) -> None:
        """Ask the server to run it."""
        self._set("phase", "PHASE", "RUN")

    def abort(self) -> None:
        """Ask the server to stop it; its metadata and results so far stay."""
        self._set("phase", "PHASE", "ABORT")

    def set_duration(self, seconds: int) -> None:
        """Wish for another execution duration, 0 = unlimited; the server may set its own limit."""
        self._set("executionduration", "EXECUTIONDURATION", str(seconds))

    def set_destruction(self, instant: datetime) -> None:
        """Wish for another destruction time; the server may set its own."""
        self._set("destruction", "DESTRUCTION", format_instant(instant))

    def set_parameters(self, parameters: Iterable[tuple[str, str]], files: Sequence[FileValue] = ()) -> None:
        """Add or replace parameters of a PENDING job."""
        form: dict[str, list[str]] = {}
        for name, value in parameters:
            form.setdefault(name, []).append(value)
        for number, file in enumerate(files):
            form.setdefault(file.name, []).append(f"param:upload_{number}")
        self._connection.send(
            "POST", f"{self.url}/parameters", form=form, files=_parts(files, None) if files else None
        )

    def delete(self) -> None:
        """Remove the job with all its results; that it is gone already is no error."""
        try:
            self._connection.send("DELETE", self.url)
        except Refused as refused:
            if refused.status == 405:
                # Some servers behind old proxies take only this form.
                self._connection.send("POST", self.url, form={"ACTION": "DELETE"})
            elif refused.status not in {404, 410}:
                raise

    def error_text(self) -> str:
        """The long text at ``/error``; '' where there is none."""
        try:
            return self._connection.get(f"{self.url}/error", accept="text/plain, */*;q=0.1").text
        except Refused as refused:
            if refused.status in {404, 410}:
                return ""
            raise

    def watch(self, *, timeout: float | None = None, every: float | None = None) -> Iterator[Job]:
        """The job each time it was read, until nothing of it will change any more.

        Servers of UWS 1.1 hold the request until the phase changes; with ``every`` they answer at
        least so often, in seconds, so that progress is seen. Other servers, and those that say 1.1
        and do not wait, are asked more and more rarely: every 0.5 s at first, every 15 s in the end.

        :raises Unfinished: ``timeout`` seconds are over.
        """
        clock = self._connection.clock
        deadline = None if timeout is None else clock() + timeout
        ended: float | None = None
        pause = 0.5
        job = self.read()  # who was never there is not waited for
        while True:
            yield job
            now = clock()
            if job.phase.final:
                ended = now if ended is None else ended
                if not job.finalising or now - ended > FINALISING_SECONDS:
                    return
            left = None if deadline is None else deadline - now
            if left is not None and left <= 0:
                raise Unfinished(f"job {self.id} is still {job.phase} after {timeout:g} s")
            held = self._held(job, left, every)
            # Held means: it changed, or the server kept the request for a while.
            if held.phase is not job.phase or (held is not job and clock() - now >= 0.5):
                pause = 0.5
                job = held
                continue
            if held is not job:
                yield held
            self._connection.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.3, every or 15.0, 15.0)
            job = self.read(patience=LOST_SECONDS)

    def _held(self, job: Job, left: float | None, every: float | None) -> Job:
        """The job as the server answers once it changed; the same value where it cannot wait."""
        if not (job.waits and job.phase.blocking) or (left is not None and left < 1):
            return job
        seconds = int(min(60.0, every or 60.0, 60.0 if left is None else left))
        return self.read(wait=max(1, seconds), phase=job.phase, patience=LOST_SECONDS)

    def _set(self, resource: str, name: str, value: str) -> None:
        self._connection.send("POST", f"{self.url}/{resource}", form={name: value})


def _created(answer: Answer) -> str:
    """The URL of the job that a creating POST made."""
    location = answer.headers.get("Location")
    if location and (300 <= answer.status < 400 or answer.status == 201):
        return urljoin(answer.url, str(location))
    raise NotUws(
        f"{answer.url} answered {answer.says} to a new job; a UWS job list answers 303 with its address. "
        "Is this the address of a job list?"
    )


def _parts(files: Sequence[FileValue], sent: Sent | None) -> Callable[[ExitStack], list[tuple[str, Any]]]:
    total = sum(file.path.stat().st_size for file in files)

    def opened(stack: ExitStack) -> list[tuple[str, Any]]:
        count = _Count(total, sent)
        return [
            (
                f"upload_{number}",
                (file.path.name, stack.enter_context(_Watched(file.path, count)), _media_type(file.path)),
            )
            for number, file in enumerate(files)
        ]

    return opened


def _media_type(path: Path) -> str:
    known = {
        ".ipynb": "application/x-ipynb+json",
        ".fits": "application/fits",
        ".vot": "application/x-votable+xml",
    }
    if path.suffix.lower() in known:
        return known[path.suffix.lower()]
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


class _Count:
    def __init__(self, total: int, sent: Sent | None) -> None:
        self.total = total
        self.done = 0
        self.sent = sent

    def add(self, size: int) -> None:
        self.done += size
        if self.sent is not None:
            self.sent(min(self.done, self.total), self.total)


class _Watched(io.FileIO):
    """A file that tells how far it has been read."""

    def __init__(self, path: Path, count: _Count) -> None:
        super().__init__(os.fspath(path), "rb")
        self._count = count

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        chunk = super().read(-1 if size is None else size) or b""
        self._count.add(len(chunk))
        return chunk
