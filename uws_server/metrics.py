"""The numbers that Prometheus reads. Each is brought up to date where something happens, never by looking.

Several processes share theirs by files in the directory that ``PROMETHEUS_MULTIPROC_DIR`` names, which must
be set before this is imported; then whoever answers tells the sum of all. docs/metrics.md lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as _generate
from prometheus_client.multiprocess import MultiProcessCollector

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job
from uws_server.domain.phase import Phase
from uws_server.store.base import Load

CONTENT_TYPE = CONTENT_TYPE_LATEST

_QUICK = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_SLOW = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)

# Of several processes' words the last one counts.
_latest = partial(Gauge, multiprocess_mode="mostrecent")

PHASE_CHANGES = Counter(
    "uws_job_phase_changes_total", "Jobs that came to a phase.", ("service", "site", "phase")
)
ATTEMPTS_LOST = Counter(
    "uws_attempts_lost_total", "Attempts after which a job was tried again.", ("service", "site")
)
START = Histogram(
    "uws_job_start_seconds",
    "From QUEUED to the start of the user's code.",
    ("service", "site"),
    buckets=_SLOW,
)
NEWS = Histogram(
    "uws_watcher_delay_seconds",
    "From the start or end of user code, by the site's clock, to the phase that says so.",
    ("site", "phase"),
    buckets=_SLOW,
)
REQUESTS = Counter("uws_http_requests_total", "Requests answered.", ("method", "route", "status"))
REQUEST = Histogram(
    "uws_http_request_seconds",
    "From a request's header to the answer's; those that WAIT are left out.",
    ("method", "route"),
    buckets=_QUICK,
)
OBJECT_CALL = Histogram(
    "uws_object_store_call_seconds",
    "Calls of the object store, until it answered; outcome: ok, absent, exists, too_long, unavailable or "
    "failed, as when a sender breaks off.",
    ("operation", "outcome"),
    buckets=_QUICK,
)
SITE_CALL = Histogram(
    "uws_site_call_seconds",
    "Calls of a site, such as a cluster's API; outcome: ok, busy, unrunnable, unreachable or failed.",
    ("site", "operation", "outcome"),
    buckets=_QUICK,
)
LISTED = _latest(
    "uws_site_listed_timestamp_seconds",
    "When the watcher last saw all that a site runs, in seconds since 1970 UTC.",
    ("site",),
)
LEASE = _latest("uws_lease_held", "1 while this process holds the lease.", ("lease",))
QUEUE_JOBS = _latest(
    "uws_queue_jobs",
    "Jobs that wait for a site, in the lines of its first 1,000 owners.",
    ("site",),
)
QUEUE_OWNERS = _latest("uws_queue_owners", "Owners with jobs that wait for a site.", ("site",))
QUEUE_OLDEST = _latest(
    "uws_queue_oldest_seconds",
    "How long the first of those jobs has waited.",
    ("site",),
)
ATTEMPTS = _latest(
    "uws_site_attempts",
    "Attempts that count against what a site can run.",
    ("site",),
)
_phase_changes = cache(PHASE_CHANGES.labels)  # to look one up takes longer than to count
_QUEUE = (QUEUE_JOBS, QUEUE_OWNERS, QUEUE_OLDEST, ATTEMPTS)


def gathered(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process leaves its numbers for another to tell."""
    return "PROMETHEUS_MULTIPROC_DIR" in environment


def written() -> bytes:
    """All numbers as Prometheus reads them. No call of Redis."""
    if not gathered():
        return _generate(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return _generate(registry)


@contextmanager
def timed(histogram: Histogram, outcomes: Mapping[type[Exception], str], *labels: str) -> Iterator[None]:
    """Count and time what is done within, by ``labels`` and its outcome.

    That is `ok`, the word in ``outcomes`` for the kind of exception that ended it, or `failed`.
    """
    begun, outcome = perf_counter(), "failed"
    try:
        yield
        outcome = "ok"
    except tuple(outcomes) as error:
        outcome = next(word for kind, word in outcomes.items() if isinstance(error, kind))
        raise
    finally:
        histogram.labels(*labels, outcome).observe(perf_counter() - begun)


def job_changed(before: Job | None, after: Job, now: Instant, *, watched: bool) -> None:
    """Count a stored change of a job; ``watched`` when a watcher made it."""
    if before and after.attempt > before.attempt > 0:
        ATTEMPTS_LOST.labels(after.service, after.site).inc()
    if before and before.phase is after.phase:
        return
    _phase_changes(after.service, after.site, after.phase.value).inc()
    executing = after.phase is Phase.EXECUTING
    if executing and after.started is not None and after.queued is not None:
        START.labels(after.service, after.site).observe(max(0, after.started - after.queued) / 1000)
    at = after.started if executing else after.ended
    if watched and at is not None:
        NEWS.labels(after.site, after.phase.value).observe(max(0, now - at) / 1000)


def lease_asked(name: str, held: bool) -> None:
    """Note whether this process has a lease. Who has it tells of the queue, and nobody else."""
    LEASE.labels(name).set(held)
    if name == "reconciler" and not held and not gathered():
        for gauge in _QUEUE:
            gauge.clear()


def queue_seen(site: str, load: Load) -> None:
    """Note what waits for a site and what it runs."""
    QUEUE_JOBS.labels(site).set(load.jobs)
    QUEUE_OWNERS.labels(site).set(load.owners)
    QUEUE_OLDEST.labels(site).set(load.oldest_seconds)
    ATTEMPTS.labels(site).set(load.attempts)
