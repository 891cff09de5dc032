"""The attempts of a site that wait for what waiting does not bring, and since when. No I/O."""

from __future__ import annotations

from runners.base import Attempt, Observation
from runners.ending import seconds
from uws_server.domain.events import WaitedInVain
from uws_server.domain.instants import Instant
from uws_server.domain.job import ErrorSummary, Job


class Stuck:
    """What a watcher has to remember of them between two passes; since when stands in the job's record.

    ``limit`` in seconds, 0 for none. The time in which the site was silent is nobody's: what was stuck before
    is given the whole limit again.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._reasons: dict[Attempt, tuple[Instant, str]] = {}
        self._heard: Instant = 0  # from when on the site has answered

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def note(self, seen: Observation, job: Job | None) -> None:
        """An observation, and what the record says once it is in there."""
        if self._limit and seen.stuck and job is not None and job.stuck is not None:
            self._reasons[seen.job_id, seen.attempt] = job.stuck, seen.reason

    def leave(self, attempt: Attempt) -> None:
        """Nothing is known of it."""
        self._reasons.pop(attempt, None)

    def clear(self) -> None:
        """Nothing is known of any."""
        self._reasons.clear()

    def silence(self, now: Instant) -> None:
        """The site does not answer."""
        self._heard = max(self._heard, now)

    def due(self, now: Instant) -> list[tuple[str, WaitedInVain]]:
        """The jobs that are to fail, with what happened to them."""
        before = now - int(self._limit * 1000)
        return [
            (job_id, WaitedInVain(attempt, since, self._error(reason)))
            for (job_id, attempt), (since, reason) in self._reasons.items()
            if max(since, self._heard) <= before
        ]

    def _error(self, reason: str) -> ErrorSummary:
        limit = seconds(int(self._limit))
        said = f"The job could not start for {limit}, and waiting does not help: {reason}"
        return ErrorSummary(said, transient=False)
