"""Job records in Redis or Valkey (commands of Redis 7.0 only); `keys` names what lies where.

Every change is one script call, so that fields, indexes, event and place in the waiting line commit
together or not at all. Cost in Redis calls: `create` 1, `get` 1, `change` 1, `claim` 1,
`select` 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job
from uws_server.store import keys, records
from uws_server.store.base import (
    SCHEMA,
    Capacity,
    ClearanceDue,
    Due,
    FencedOff,
    JobEvent,
    KeyReused,
    Lease,
    Load,
    Planned,
    Quota,
    Selection,
    StoreUnavailable,
)
from uws_server.store.connections import Connections, Script
from uws_server.store.moves import EVENTS_KEPT, commands

log = logging.getLogger(__name__)

_KEY_SECONDS = 24 * 3600
_OWNERS_LOOKED_AT = 16
_OWNERS_COUNTED = 1000
_UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"the job store does not answer: {error}") from error
    except redis.ResponseError as error:
        # MISCONF: Redis cannot write its append-only file and takes no writes until it can.
        if str(error).startswith(("MISCONF", "NOREPLICAS", "LOADING", "OOM")):
            raise StoreUnavailable(f"the job store takes no writes: {error}") from error
        raise


def _readable(job_id: str, written: dict[str, str], *texts: str | None) -> Job | None:
    try:
        return records.job(job_id, written, *texts)
    except records.Unreadable:
        log.exception("job %s cannot be read and is passed over", job_id)
        return None


def _nobody(_name: str, _held: bool) -> None:
    """Told of leases where nobody else is."""


def _attempt(entry: str) -> tuple[str, int]:
    job_id, _, number = entry.rpartition(".")
    return job_id, int(number)


class RedisStore:
    """Jobs in one Redis. Thread-safe, and fit for gevent; each thread uses a connection of its own."""

    def __init__(
        self, url: str, *, max_connections: int = 1000, leased: Callable[[str, bool], None] = _nobody
    ) -> None:
        """``leased`` is told of each answer about a lease: its name, and whether we have it."""
        self._leased = leased
        options: dict[str, Any] = {
            "decode_responses": True,
            "socket_connect_timeout": 5,
            "retry": Retry(ExponentialBackoff(cap=1.6, base=0.1), 5),
        }
        self.client = redis.Redis.from_url(url, socket_timeout=10, max_connections=max_connections, **options)
        # XREAD blocks for as long as it was told to, so that its reply may be late on purpose.
        self._patient = redis.Redis.from_url(url, socket_timeout=60, **options)
        self._connections = Connections(self.client.connection_pool)
        self._create = self._script("create")
        self._read = self._script("read")
        self._change = self._script("change")
        self._claim = self._script("claim")
        self._report = self._script("report")
        self._begin = self._script("begin")
        self._count = self._script("count")
        self._cleared = self._script("cleared")
        self._lease = self._script("lease")
        self._release = self._script("release")
        self._select = self._script("select")
        self._schema = self._script("schema")
        self._load = self._script("load")

    def _script(self, name: str) -> Script:
        text = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text()
        return Script(self._connections, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324  as Redis does

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
        self.client.close()
        self._patient.close()

    # -- jobs --------------------------------------------------------------------------------------

    def create(self, job: Job, key: str = "", fingerprint: str = "") -> Job:
        """See `JobStore.create`."""
        digest = hashlib.sha256(repr((job.owner, job.service, key)).encode()).hexdigest()
        uploads = any(parameter.upload for parameter in job.parameters)
        touched = [
            keys.job(job.id),
            keys.idempotency(digest) if key else "",
            keys.due(Due.CLEARANCE) if uploads else "",
        ]
        words = [job.id, fingerprint or "-", _KEY_SECONDS, *self.creation(job)]
        with _reached():
            stored_id = self._create(touched, words)
        if stored_id == job.id:
            return job
        if stored_id == "!":
            raise ClearanceDue(job.id)
        stored = self.get(stored_id) if stored_id else None
        if stored is None:
            # Also when the job made then was deleted since: it cannot be given again.
            raise KeyReused(key)
        return stored

    @staticmethod
    def creation(job: Job) -> list[str | int]:
        """The commands that create a job, each as its length and its words, as the scripts take them."""
        return commands(None, job)

    def get(self, job_id: str) -> Job | None:
        """See `JobStore.get`. A script, since that is one command and half the work of a pipeline."""
        with _reached():
            flat, *texts = self._read([keys.job(job_id), keys.parameters(job_id), keys.outcome(job_id)])
        return records.job(job_id, dict(zip(flat[::2], flat[1::2], strict=True)), *texts) if flat else None

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """See `JobStore.get_many`."""
        with _reached(), self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(keys.job(job_id))
                pipe.mget(keys.parameters(job_id), keys.outcome(job_id))
            replies = pipe.execute()
        return [
            _readable(job_id, written, *texts) if written else None
            for job_id, written, texts in zip(job_ids, replies[::2], replies[1::2], strict=True)
        ]

    def select(self, selection: Selection) -> list[Job]:
        """See `JobStore.select`. Parameters, results and reasons are left out."""
        lists = [keys.jobs(selection.service, selection.owner, phase) for phase in sorted(selection.phases)]
        lowest = "-inf" if selection.after is None else f"({selection.after}"
        created, job_id = selection.before or ("", "")
        highest = created if selection.before else "+inf"
        with _reached():
            found = self._select(lists, [keys.JOBS, selection.limit, lowest, highest, created, job_id])
        jobs = []
        for found_id, flat in zip(found[::2], found[1::2], strict=True):
            job = _readable(found_id, dict(zip(flat[::2], flat[1::2], strict=True))) if flat else None
            if job is not None:
                jobs.append(job)
        return jobs

    def change(self, before: Job, after: Job, lease: Lease | None = None) -> bool:
        """See `JobStore.change`."""
        held = keys.lease(lease.name) if lease else ""
        words = [before.version, lease.fence if lease else 0, *commands(before, after)]
        with _reached():
            answer = self._change([keys.job(before.id), held], words)
        if answer == -1:
            raise FencedOff(f"{lease.name if lease else ''} has passed to another holder")
        return bool(answer)

    def schedule_clearance(self, job_id: str, at: Instant) -> None:
        """See `JobStore.schedule_clearance`."""
        with _reached():
            self.client.zadd(keys.due(Due.CLEARANCE), {job_id: at})

    def cleared(self, job_id: str, seen: Job | None, *, forget: bool = False) -> bool:
        """See `JobStore.cleared`."""
        record = keys.job(job_id), keys.parameters(job_id), keys.outcome(job_id), keys.counts(job_id)
        words: list[str | int] = [job_id, "" if seen is None else seen.version, int(forget)]
        with _reached():
            done = self._cleared([keys.due(Due.CLEARANCE), *record], words)
        return bool(done)

    # -- work --------------------------------------------------------------------------------------

    def claim(self, site: str, capacity: Capacity, seconds: float) -> str | None:
        """See `JobStore.claim`."""
        lines = keys.owners(site), keys.use(site), keys.due(Due.CLAIM), keys.turns(site), keys.turn(site)
        room = capacity.jobs, capacity.cpu_milli, capacity.memory_bytes
        words: list[str | int] = [keys.lines(site), keys.JOBS, *room, int(seconds * 1000), _OWNERS_LOOKED_AT]
        with _reached():
            claimed: str | None = self._claim(lines, words)
        return claimed

    def report(self, job_id: str, attempt: int, done: int, of: int) -> None:
        """See `JobStore.report`."""
        with _reached():
            self._report([keys.job(job_id), keys.EVENTS], [attempt, f"{done}/{of}", EVENTS_KEPT, job_id])

    def begin(self, job_id: str, attempt: int, place: str) -> bool:
        """See `JobStore.begin`."""
        with _reached():
            return bool(self._begin([keys.job(job_id), keys.counts(job_id)], [attempt, place]))

    def count(self, job_id: str, attempt: int, planned: Sequence[Planned], quota: Quota) -> int | None:
        """See `JobStore.count`. 50 bytes of Redis a name, while the attempt lasts."""
        words: list[str | int] = [attempt, quota.bytes, quota.files, quota.log_bytes]
        for one in planned:
            if one.offset is None:
                words += [hashlib.sha256(one.name.encode()).hexdigest()[:24], one.size, ""]
            else:
                words += [f"log:{one.name}", one.size, one.offset]
        with _reached():
            over = self._count([keys.job(job_id), keys.counts(job_id)], words)
        return int(over) - 1 if over else None

    def due(self, what: Due, now: Instant, site: str = "", limit: int = 100) -> list[str]:
        """See `JobStore.due`."""
        with _reached():
            found = self.client.zrange(keys.due(what, site), "-inf", now, byscore=True, offset=0, num=limit)
        return [str(job_id) for job_id in found]

    def now(self) -> Instant:
        """See `JobStore.now`."""
        with _reached():
            seconds, microseconds = self._connections.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def waiting(self, site: str) -> int:
        """See `JobStore.waiting`."""
        with _reached():
            return int(self.client.zcard(keys.owners(site)))

    def load(self, site: str) -> Load:
        """See `JobStore.load`."""
        with _reached():
            owners, jobs, oldest, attempts, now = self._load(
                [keys.owners(site), keys.use(site)], [keys.lines(site), _OWNERS_COUNTED]
            )
        waited = max(0, int(now) - int(oldest)) / 1000 if oldest else 0.0
        return Load(jobs=int(jobs), owners=int(owners), oldest_seconds=waited, attempts=int(attempts))

    def report_capacity(self, site: str, capacity: Capacity) -> None:
        """See `JobStore.report_capacity`."""
        with _reached():
            self.client.set(keys.capacity(site), json.dumps(asdict(capacity)))

    def capacity(self, site: str) -> Capacity | None:
        """See `JobStore.capacity`."""
        with _reached():
            said: Any = self.client.get(keys.capacity(site))
        return Capacity(**json.loads(said)) if said else None

    def given(self, site: str) -> dict[tuple[str, int], bool]:
        """See `JobStore.given`."""
        with _reached():
            found: Any = self.client.zrange(keys.given(site), 0, -1, withscores=True)
        return {_attempt(entry): bool(wanted) for entry, wanted in found}

    def forgotten(self, site: str, attempts: Collection[tuple[str, int]]) -> None:
        """See `JobStore.forgotten`."""
        if attempts:
            with _reached():
                self.client.zrem(keys.given(site), *(keys.attempt(*attempt) for attempt in attempts))

    # -- leases and events ---------------------------------------------------------------------------

    def lease(self, name: str, holder: str, seconds: float) -> Lease | None:
        """See `JobStore.lease`."""
        with _reached():
            fence = self._lease([keys.lease(name), keys.FENCE], [holder, int(seconds * 1000)])
        self._leased(name, bool(fence))
        return Lease(name, holder, int(fence)) if fence else None

    def release(self, lease: Lease) -> None:
        """See `JobStore.release`."""
        with _reached():
            self._release([keys.lease(lease.name)], [lease.fence])

    def events(self, after: str, timeout: float) -> list[JobEvent]:
        """See `JobStore.events`."""
        with _reached():
            answer: Any = self._patient.xread(
                {keys.EVENTS: after or "0-0"}, count=1000, block=max(1, int(timeout * 1000))
            )
        if not answer:
            return []
        entries = answer[0][1] if isinstance(answer, list) else answer[keys.EVENTS][0]
        return [JobEvent(entry_id, e["j"], e["o"], e["s"], e["p"], e["k"]) for entry_id, e in entries]

    def last_event(self) -> str:
        """See `JobStore.last_event`."""
        with _reached():
            newest = self.client.xrevrange(keys.EVENTS, count=1)
        return str(newest[0][0]) if newest else ""

    # -- health ---------------------------------------------------------------------------------------

    def schema(self, ours: int = SCHEMA) -> int:
        """See `JobStore.schema`."""
        with _reached():
            return int(self._schema([keys.SCHEMA, keys.EVENTS], [ours]))

    def check(self) -> list[str]:
        """See `JobStore.check`."""
        with _reached():
            persistence = self.client.info("persistence")
            memory = self.client.info("memory")
            try:
                fsync = self.client.config_get("appendfsync").get("appendfsync", "")
            except redis.ResponseError:
                fsync = "unknown (CONFIG is not permitted)"
        problems = []
        if not persistence.get("aof_enabled"):
            problems.append("the append-only file is off (appendonly no): jobs are lost when Redis stops")
        elif fsync != "always":
            problems.append(f"appendfsync is {fsync}, not always: a power cut may lose accepted jobs")
        if persistence.get("aof_last_write_status", "ok") != "ok":
            problems.append("Redis could not write its append-only file the last time it tried")
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            problems.append(f"maxmemory-policy is {policy}, not noeviction: Redis may throw jobs away")
        return problems
