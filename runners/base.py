"""What every runner offers: start, observe and stop attempts at one site.

A runner touches no store. It is told what to do by the worker, and what it sees is turned into
phase changes by the watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from uws_server.domain.runspec import RunSpec

Attempt = tuple[str, int]
"""Job id and number."""


class State(Enum):
    """How far an attempt has come, as its site tells it."""

    UNSTARTED = "unstarted"  # the site has heard of it, but nothing runs there: `start` was cut short
    STAGING = "staging"  # accepted; the user's code has not started
    RUNNING = "running"  # the user's code has started
    FINISHING = "finishing"  # the user's code has ended; results are on their way
    ENDED = "ended"  # everything of the attempt has ended, its process tree or pod is gone
    LOST = "lost"  # the attempt was broken off by the infrastructure; proved ended


class Cause(Enum):
    """Why an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the user's code ended with a failure
    OUT_OF_MEMORY = "out-of-memory"
    OUT_OF_DISK = "out-of-disk"
    TIMED_OUT = "timed-out"  # the execution duration was exceeded
    STOPPED = "stopped"  # because `stop` was called
    STAGE_IN = "stage-in"  # an input could not be had
    STAGE_OUT = "stage-out"  # a result could not be stored
    REFUSED = "refused"  # the site cannot run this run spec at all
    LOST = "lost"  # infrastructure


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, in words for the scientist. Only ENDED and LOST attempts have one.

    ``message`` is one sentence for the error summary ('' for SUCCEEDED); ``detail`` the longer
    text for ``/error``; ``transient`` says whether the same job may work if tried again.
    """

    cause: Cause
    message: str = ""
    detail: str = ""
    exit_code: int | None = None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What a runner saw of one attempt. Instants are milliseconds since 1970 UTC.

    ``image`` is the one that it runs, with its digest, as the site tells it; '' where there is none or before
    it is there.
    """

    job_id: str
    attempt: int
    state: State
    reason: str = ""  # why it is not further, for the job info
    started: int | None = None  # when the user's code started
    ended: int | None = None  # when the user's code ended
    outcome: Outcome | None = None
    image: str = ""
    silent: bool = False  # the site has not heard of it lately: what it says here is of before
    stuck: bool | None = False  # in vain it waits for what ``reason`` says; None: that is not known just now


class Busy(Exception):
    """The site takes no more just now; the job stays QUEUED with this reason."""


class NotYet(Busy):
    """This attempt cannot be started just now, for the want of what others may not need; they can be."""


class Unrunnable(Exception):
    """The site can never run this run spec, for the reason that this says; the job fails with it."""


class Unreachable(Exception):
    """The site does not answer: nothing is known of its attempts, and nothing follows from that."""


def no_doubt() -> None:
    """What a start is confirmed by where nobody else starts anything."""


class Isolation(Protocol):
    """How a site keeps user code apart: in sentences what holds and what does not.

    ``sealed`` says whether user code is kept from every credential of ours, and from the networks
    where some are to be had; where it is not, the site must serve only anonymous users of this machine.
    """

    @property
    def mode(self) -> str:
        """Its name."""

    @property
    def sealed(self) -> bool:
        """Whether no credential of ours is in reach."""

    @property
    def holds(self) -> tuple[str, ...]:
        """What holds, in sentences."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What does not."""


class Runner(Protocol):
    """One site's way to run attempts. Every method may be called again at any time, and in any thread."""

    overrun_seconds: float
    """How much longer than its execution duration an attempt may seem to run before the server ends it: the
    site ends it by itself, and its news may be so late."""

    def start(
        self, spec: RunSpec, agent_url: str, token: str, confirm: Callable[[], None] = no_doubt
    ) -> None:
        """See to it that this attempt runs, or has run: its user code starts at most once.

        ``agent_url``, which is the door's with its path, and ``token`` are for the attempt's agent alone.
        ``confirm`` is called before anything is started, at a moment from which nobody else can start or
        forget this attempt; what it raises ends the start. So a worker that was paused for long starts
        nothing that others have started, seen to its end and forgotten meanwhile.

        :raises Busy: not now, nor any other.
        :raises NotYet: not now, for the want of what others may not need.
        :raises Unrunnable: never at this site.
        """

    def observe(self) -> Iterable[Observation]:
        """Every attempt that this site still knows, whoever started it. The list is the truth.

        It is whole: an attempt that was started before the call and is not in it is not known to the site.

        :raises Unreachable: the site does not answer, or not in full.
        """

    def wait(self, timeout: float) -> None:
        """Return when `observe` may have something new to tell, at the latest after `timeout` s."""

    def stop(self, job_id: str, attempt: int) -> None:
        """Ask for the end of the attempt. Returns at once; `observe` tells when it is gone.

        Stopping an attempt that was never started makes sure that it never starts.
        """

    def forget(self, job_id: str, attempt: int) -> None:
        """Remove what the site keeps of an ENDED or LOST attempt, once its end is recorded."""
