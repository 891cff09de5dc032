"""A site in memory: the Runner protocol without processes, for tests of what uses runners.

The test says what becomes of an attempt (`run`, `end`, `lose`); the rules of the protocol hold as
at a real site: code runs at most once, a stopped attempt never starts, the list is the truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from runners.base import Busy, Cause, Observation, Outcome, State, Unreachable, no_doubt
from uws_server.domain.runspec import RunSpec

_FINAL = (State.ENDED, State.LOST)
_SUCCEEDED = Outcome(Cause.SUCCEEDED, exit_code=0)


@dataclass(slots=True)
class _Attempt:
    seen: Observation
    spec: RunSpec | None = None  # None: stopped before it was started


@dataclass
class FakeSite:
    """What outlives a runner object, as a site outlives the server. Clock: milliseconds."""

    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    runs: list[tuple[str, int]] = field(default_factory=list)  # attempts whose code was started
    news: threading.Condition = field(default_factory=threading.Condition)
    count: int = 0  # of all changes so far
    attempts: dict[tuple[str, int], _Attempt] = field(default_factory=dict)


class FakeRunner:
    """A runner of `site`; ``busy`` makes `start` refuse, ``deaf`` makes code ignore `stop`.

    ``unreachable`` makes `observe` fail.
    """

    def __init__(self, site: FakeSite | None = None) -> None:
        self.site = site or FakeSite()
        self.busy = ""
        self.deaf = False
        self.unreachable = ""
        self.overrun_seconds = 15.0
        self._known = 0

    # -- the protocol

    def start(
        self, spec: RunSpec, agent_url: str, token: str, confirm: Callable[[], None] = no_doubt
    ) -> None:
        """Accept the attempt, once."""
        if self.busy:
            raise Busy(self.busy)
        key = spec.job_id, spec.attempt
        with self.site.news:
            if key in self.site.attempts:
                return
            confirm()
            seen = Observation(*key, State.STAGING, "staging in")
            if spec.kind == "container":
                words = "This site runs programs and notebooks, not container images."
                seen = replace(seen, state=State.ENDED, reason="", outcome=Outcome(Cause.REFUSED, words))
            self.site.attempts[key] = _Attempt(seen, spec)
            self._tell()

    def observe(self) -> Iterable[Observation]:
        """Every attempt of the site."""
        if self.unreachable:
            raise Unreachable(self.unreachable)
        with self.site.news:
            return [attempt.seen for attempt in self.site.attempts.values()]

    def wait(self, timeout: float) -> None:
        """Return at the first change that this runner has not been told of."""
        with self.site.news:
            self.site.news.wait_for(lambda: self.site.count != self._known, timeout)
            self._known = self.site.count

    def stop(self, job_id: str, attempt: int) -> None:
        """End the attempt, unless its code is deaf; one that was never started never will be."""
        key = job_id, attempt
        with self.site.news:
            found = self.site.attempts.setdefault(key, _Attempt(Observation(*key, State.STAGING)))
            running = found.seen.state in (State.RUNNING, State.FINISHING)
            if found.seen.state in _FINAL or (running and self.deaf):
                return
            words = "The job was stopped on request." if running else "The job was stopped before it started."
            self._end(key, State.ENDED, Outcome(Cause.STOPPED, words))

    def forget(self, job_id: str, attempt: int) -> None:
        """Remove an attempt that has ended.

        :raises ValueError: it has not.
        """
        with self.site.news:
            found = self.site.attempts.get((job_id, attempt))
            if found is None:
                return
            if found.seen.state not in _FINAL:
                raise ValueError(f"attempt {attempt} of job {job_id} has not ended")
            del self.site.attempts[job_id, attempt]
            self._tell()

    # -- what the test decides

    def run(self, job_id: str, attempt: int) -> None:
        """Staging is over: the user's code starts."""
        with self.site.news:
            found = self.site.attempts[job_id, attempt]
            if found.seen.state is not State.STAGING:
                raise ValueError(f"attempt {attempt} of job {job_id} is {found.seen.state.value}")
            self.site.runs.append((job_id, attempt))
            found.seen = replace(
                found.seen, state=State.RUNNING, reason="", stuck=False, started=self.site.clock()
            )
            self._tell()

    def wait_for(self, job_id: str, attempt: int, reason: str, *, stuck: bool | None = False) -> None:
        """The attempt waits for something, which comes by waiting or, where it is ``stuck``, does not."""
        with self.site.news:
            found = self.site.attempts[job_id, attempt]
            found.seen = replace(found.seen, reason=reason, stuck=stuck)
            self._tell()

    def silence(self, job_id: str, attempt: int, *, silent: bool = True) -> None:
        """Where the attempt runs does not answer the site, or does so again."""
        with self.site.news:
            found = self.site.attempts[job_id, attempt]
            found.seen = replace(found.seen, silent=silent)
            self._tell()

    def finish(self, job_id: str, attempt: int) -> None:
        """The user's code has ended, and its results are on their way."""
        with self.site.news:
            found = self.site.attempts[job_id, attempt]
            ended = self.site.clock()
            found.seen = replace(found.seen, state=State.FINISHING, reason="storing results", ended=ended)
            self._tell()

    def end(self, job_id: str, attempt: int, outcome: Outcome = _SUCCEEDED) -> None:
        """Everything of the attempt has ended so."""
        with self.site.news:
            self._end((job_id, attempt), State.ENDED, outcome)

    def lose(self, job_id: str, attempt: int) -> None:
        """The infrastructure breaks the attempt off."""
        words = "The job was broken off: its supervisor process ended."
        with self.site.news:
            self._end((job_id, attempt), State.LOST, Outcome(Cause.LOST, words, transient=True))

    def vanish(self, job_id: str, attempt: int) -> Callable[[], None]:
        """The site no longer knows of the attempt, as when a disk is lost. The answer brings it back."""
        key = job_id, attempt
        with self.site.news:
            vanished = self.site.attempts.pop(key)
            self._tell()

        def reappear() -> None:
            with self.site.news:
                self.site.attempts[key] = vanished
                self._tell()

        return reappear

    # -- with the lock held

    def _end(self, key: tuple[str, int], state: State, outcome: Outcome) -> None:
        found = self.site.attempts[key]
        ended = found.seen.ended
        if found.seen.started is not None and ended is None:
            ended = self.site.clock()
        found.seen = replace(found.seen, state=state, reason="", stuck=False, ended=ended, outcome=outcome)
        self._tell()

    def _tell(self) -> None:
        self.site.count += 1
        self.site.news.notify_all()
