"""A runner whose calls are counted and timed, and whose lists are noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from runners.base import Busy, Observation, Runner, Unreachable, Unrunnable, no_doubt
from uws_server.domain.runspec import RunSpec
from uws_server.metrics import LISTED, SITE_CALL, timed

_OUTCOMES: dict[type[Exception], str] = {
    Busy: "busy",
    Unrunnable: "unrunnable",
    Unreachable: "unreachable",
}


class CountedRunner:
    """See `Runner`. ``listed`` is called after each list that was whole."""

    def __init__(self, site: str, runner: Runner, listed: Callable[[], None] = no_doubt) -> None:
        self._site = site
        self._runner = runner
        self._listed = listed
        self.overrun_seconds = runner.overrun_seconds

    def _counted(self, operation: str) -> AbstractContextManager[None]:
        return timed(SITE_CALL, _OUTCOMES, self._site, operation)

    def start(
        self, spec: RunSpec, agent_url: str, token: str, confirm: Callable[[], None] = no_doubt
    ) -> None:
        """See `Runner.start`."""
        with self._counted("start"):
            self._runner.start(spec, agent_url, token, confirm)

    def observe(self) -> Iterable[Observation]:
        """See `Runner.observe`."""
        with self._counted("observe"):
            seen = list(self._runner.observe())
        LISTED.labels(self._site).set_to_current_time()
        self._listed()
        return seen

    def wait(self, timeout: float) -> None:
        """See `Runner.wait`."""
        self._runner.wait(timeout)

    def stop(self, job_id: str, attempt: int) -> None:
        """See `Runner.stop`."""
        with self._counted("stop"):
            self._runner.stop(job_id, attempt)

    def forget(self, job_id: str, attempt: int) -> None:
        """See `Runner.forget`."""
        with self._counted("forget"):
            self._runner.forget(job_id, attempt)
