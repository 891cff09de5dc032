"""What the job store keeps in Redis, and under which names, all of them below ``uws:``.

    j:{id} s:{id} o:{id}         hash, parameters and outcome of a job (see `records`)
    n:{id}                       what the running attempt has stored, by digests of names; where it began
    l:{service}:{owner}:{phase}  ids by creation: what lists are made of
    w:{site}:{owner}             a waiting line: ids by when they were queued, or put off
    e:{site}                     owners with a waiting line, by the turn they last had
    t:{site} turn:{site}         the last turn of every owner, and the counter of turns
    u:{site}                     use of the site: attempts, cpu, memory
    c:{site}                     what the site can run, as its worker has said
    a:{site}                     attempts that a site was given: 1 wanted there, 0 not any more
    due:…                        the time-ordered indexes of `Due`
    i:{digest}                   idempotency keys
    lease:{name} fence           leases and the counter of their fences
    events                       the event stream, its length bounded
    schema                       the version of all this, see `store.base.SCHEMA`

Owners are written as `member` says.
"""

from __future__ import annotations

from urllib.parse import quote

from uws_server.domain.phase import Phase
from uws_server.store.base import Due

PREFIX = "uws:"
JOBS = PREFIX + "j:"
EVENTS = PREFIX + "events"
FENCE = PREFIX + "fence"
SCHEMA = PREFIX + "schema"


def job(job_id: str) -> str:
    """The hash of a job."""
    return JOBS + job_id


def parameters(job_id: str) -> str:
    """The parameters of a job."""
    return f"{PREFIX}s:{job_id}"


def outcome(job_id: str) -> str:
    """Reason, error and results of a job."""
    return f"{PREFIX}o:{job_id}"


def counts(job_id: str) -> str:
    """What the running attempt of a job has stored."""
    return f"{PREFIX}n:{job_id}"


def jobs(service: str, owner: str, phase: Phase) -> str:
    """The jobs of one service, owner and phase, by creation."""
    return f"{PREFIX}l:{service}:{member(owner)}:{phase}"


def lines(site: str) -> str:
    """What the names of a site's waiting lines begin with; the `member` of the owner follows."""
    return f"{PREFIX}w:{site}:"


def owners(site: str) -> str:
    """The owners with a waiting line at a site."""
    return f"{PREFIX}e:{site}"


def member(owner: str) -> str:
    """An owner where colons part the words."""
    return quote(owner, safe="")


def turns(site: str) -> str:
    """The last turn of every owner at a site."""
    return f"{PREFIX}t:{site}"


def turn(site: str) -> str:
    """The counter of a site's turns."""
    return f"{PREFIX}turn:{site}"


def use(site: str) -> str:
    """What of a site is in use."""
    return f"{PREFIX}u:{site}"


def capacity(site: str) -> str:
    """What a site can run."""
    return f"{PREFIX}c:{site}"


def given(site: str) -> str:
    """The attempts that a site was given and may still have; see `attempt`."""
    return f"{PREFIX}a:{site}"


def attempt(job_id: str, number: int) -> str:
    """An attempt among those that a site was given."""
    return f"{job_id}.{number}"


def due(what: Due, site: str = "") -> str:
    """A time-ordered index."""
    return f"{PREFIX}due:{what.value}:{site}" if what is Due.STOP else f"{PREFIX}due:{what.value}"


def idempotency(digest: str) -> str:
    """The job that an idempotency key stands for."""
    return f"{PREFIX}i:{digest}"


def lease(name: str) -> str:
    """Who holds a lease."""
    return f"{PREFIX}lease:{name}"
