"""A job's stdout or stderr as it grows, read by ranges from the results of the same name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from uws_client.connection import read_whole
from uws_client.documents import Job
from uws_client.errors import NotUws, Refused, Unreachable
from uws_client.protocol import LOST_SECONDS, RemoteJob


class Log:
    """One log of one job, read from where the last read ended. ``position`` counts bytes."""

    def __init__(self, job: RemoteJob, name: str = "stdout") -> None:
        self._job = job
        self._url = f"{job.url}/results/{name}"
        self._name = name
        self.position = 0

    def more(self) -> Iterator[bytes]:
        """What has come since.

        :raises Refused: 404 where there is no such log, or not yet.
        """
        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        with self._job.connection.stream(self._url, headers) as response:
            status = response.status_code
            if status == 416:
                return
            if status >= 500 or status == 429:
                raise Unreachable(f"{response.url} answered {status}")
            if status not in {200, 206}:
                answer = read_whole(response)
                raise Refused(f"{answer.url} answered {answer.says}", status)
            skip = self.position
            if status == 206:
                start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
                if start is None or int(start[1]) != self.position:
                    raise NotUws(
                        f"{response.url} answered with another part of the log than the one asked for"
                    )
                skip = 0
            for chunk in response.iter_bytes():
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                if fresh:
                    self.position += len(fresh)
                    yield fresh

    def follow(self, every: float = 1.0) -> Iterator[bytes]:
        """What is there and what comes, until the job has ended and all of it was read.

        :raises Refused: the job ended and there is no such log.
        """
        clock = self._job.connection.clock
        trouble: float | None = None
        for job in self._job.watch(every=every):
            try:
                yield from self.more()
                trouble = None
            except Refused as refused:
                if refused.status != 404 or _over(job):
                    raise
            except Unreachable:
                trouble = clock() if trouble is None else trouble
                if _over(job) or clock() - trouble > LOST_SECONDS:
                    raise


def _over(job: Job) -> bool:
    return job.phase.final and not job.finalising
