"""What a worker does when it is woken: start what waits at its site, stop what is to end.

Both return as soon as nothing is left to do; a worker never waits for a job to finish.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf

from job_templates.catalog import Catalog
from job_templates.render import render
from runners.base import Busy, NotYet, Runner, Unrunnable
from uws_server.domain.errors import Refused
from uws_server.domain.events import Deferred, Launched, Postponed, Reasoned, Unstartable
from uws_server.domain.job import ErrorSummary, Job, Workload
from uws_server.service.changes import Changes
from uws_server.service.door import agent_token
from uws_server.store.base import Capacity, Due, JobStore

log = logging.getLogger(__name__)

_LONGEST = 20.0
_TRIES = 5
_STOP_AGAIN = 10.0  # s
_DEFERRED = 10  # each costs its registry's patience at most, and a claim and a change in Redis


class _ClaimLost(Exception):
    """While this worker was on its way, the job went on without it."""


class Worker:
    """Starts and stops attempts at one site.

    Cost of one start: claim, two reads, the runner's own work, and one change (2 Redis calls).
    """

    def __init__(
        self,
        *,
        site: str,
        capacity: Capacity,
        claim_seconds: float,
        store: JobStore,
        changes: Changes,
        catalog: Catalog,
        runner: Runner,
        agent_url: str,
        secret: bytes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._capacity = capacity
        self._claim_seconds = claim_seconds
        self._store = store
        self._changes = changes
        self._catalog = catalog
        self._runner = runner
        self._agent_url = agent_url
        self._secret = secret
        self._monotonic = monotonic
        self._stopped: dict[str, float] = {}  # jobs that are being ended → when the site was asked

    def start_waiting(self) -> bool:
        """Claim and start jobs until none is left that fits, or the site takes no more.

        It also returns after `_LONGEST` seconds, as RQ breaks off what takes too long, and after a few
        jobs that the site cannot start yet, lest it turn in circles; then the reconciler wakes a worker again
        for as long as anything waits.

        :return: whether it is to be called again at once, as nothing but time ended it.
        """
        until = time.monotonic() + _LONGEST
        deferred = 0
        while time.monotonic() < until and deferred < _DEFERRED:
            job_id = self._store.claim(self._site, self._capacity, self._claim_seconds)
            if job_id is None:
                return False
            job = self._store.get(job_id)
            if job is None or job.workload is not Workload.CLAIMED:
                continue
            try:
                if not self._start(job):
                    return False
            except NotYet as error:
                self._changes.apply(job.id, Deferred(job.attempt, str(error)))
                deferred += 1
        return deferred < _DEFERRED

    def _start(self, job: Job) -> bool:
        """Whether the site may take more.

        :raises NotYet: not this one just now.
        """
        if self._capacity.never_fits(job):  # the site has become smaller since the job was taken
            raise NotYet("the job asks for more processors or memory than its site has now")
        try:
            spec = render(self._catalog.get(job.service), job)
        except Refused as error:
            # The template has changed or gone since the job was checked.
            return self._fail(job, f"the job can no longer be started: {error}")
        token = agent_token(self._secret, job.id, job.attempt)
        try:
            self._runner.start(spec, self._agent_url, token, lambda: self._confirm(job))
        except _ClaimLost:
            return True
        except Unrunnable as error:
            return self._fail(job, str(error))
        except NotYet:
            raise
        except Busy as busy:
            self._changes.apply(job.id, Postponed(job.attempt, str(busy)))
            return False
        except Exception as error:
            # Whether it runs now is not known. The claim lapses, and the same attempt is tried again.
            log.exception("job %s attempt %d could not be started", job.id, job.attempt)
            if job.lapses >= _TRIES:
                said = f"the site could not start the job in {_TRIES} tries ({type(error).__name__})"
                return self._fail(job, said, transient=True)
            reason = f"the site could not start it just now ({type(error).__name__}); it is tried again"
            self._changes.apply(job.id, Reasoned(job.attempt, reason))
            return False
        self._changes.apply(job.id, Launched(job.attempt))
        return True

    def _fail(self, job: Job, message: str, *, transient: bool = False) -> bool:
        """End a job that cannot be started; True, as the site may take others."""
        self._changes.apply(job.id, Unstartable(job.attempt, ErrorSummary(message, transient=transient)))
        return True

    def _confirm(self, job: Job) -> None:
        """That the attempt still waits to be started, for whoever claimed it.

        :raises _ClaimLost: it does not, or not for certain.
        """
        found = self._store.get(job.id)
        if found is None or found.workload is not Workload.CLAIMED or found.attempt != job.attempt:
            raise _ClaimLost

    def stop_due(self) -> None:
        """Ask the site to end every attempt that is to end; the watcher sees to it that it has.

        An end takes its time: who was asked is asked again only after a while, in case it was not heard.
        """
        due = self._store.due(Due.STOP, self._store.now(), self._site, limit=1000)
        now = self._monotonic()
        asked = {job_id: at for job_id in due if now - (at := self._stopped.get(job_id, -inf)) < _STOP_AGAIN}
        self._stopped = asked
        for job_id in due:
            job = None if job_id in asked else self._store.get(job_id)
            if job is not None and job.workload is Workload.STOPPING:
                try:
                    self._runner.stop(job.id, job.attempt)
                    self._stopped[job_id] = now
                except Exception:
                    log.exception(
                        "job %s attempt %d could not be stopped; it is tried again", job.id, job.attempt
                    )
