"""Job records in Redis or Valkey (commands of Redis 7.0 only).

Keys, all below ``uws:``:

    j:{id} s:{id} o:{id}         hash, spec and outcome of a job (see `records`)
    n:{id}                       what the running attempt has stored, by digests of the names
    l:{service}:{owner}:{phase}  ids by creation: what lists are made of
    w:{site}:{owner}             a waiting line: ids by when they were queued
    e:{site}                     owners with a waiting line, by the turn they last had
    t:{site} turn:{site}         the last turn of every owner, and the counter of turns
    u:{site}                     use of the site: attempts, cpu, memory
    due:…                        the time-ordered indexes of `Due`
    i:{digest}                   idempotency keys
    lease:{name} fence           leases and the counter of their fences
    events                       the event stream, its length bounded

Every change is one script call, so that fields, indexes, event and place in the waiting line commit
together or not at all. Cost in Redis calls: `create` 1, `get` 1, `change` 1, `claim` 1,
`select` 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.domain.phase import Phase
from uws_server.store import records
from uws_server.store.base import (
    Capacity,
    Due,
    FencedOff,
    JobEvent,
    KeyReused,
    Lease,
    Planned,
    Quota,
    ReservationLapsed,
    Selection,
    StoreUnavailable,
)
from uws_server.store.connections import Connections, Script

log = logging.getLogger(__name__)

_PREFIX = "uws:"
_EVENTS = _PREFIX + "events"
_FENCE = _PREFIX + "fence"
_EVENTS_KEPT = 200_000
_KEY_SECONDS = 24 * 3600
_OWNERS_LOOKED_AT = 16
_UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.BusyLoadingError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
)

Command = Sequence[str | int]


def _job(job_id: str) -> str:
    return f"{_PREFIX}j:{job_id}"


def _spec(job_id: str) -> str:
    return f"{_PREFIX}s:{job_id}"


def _outcome(job_id: str) -> str:
    return f"{_PREFIX}o:{job_id}"


def _counts(job_id: str) -> str:
    return f"{_PREFIX}n:{job_id}"


def _list(job: Job | None) -> str | None:
    return None if job is None or job.deleted else _list_of(job.service, job.owner, job.phase)


def _list_of(service: str, owner: str, phase: Phase) -> str:
    return f"{_PREFIX}l:{service}:{quote(owner, safe='')}:{phase}"


def _line(job: Job) -> str:
    return f"{_PREFIX}w:{job.site}:{quote(job.owner, safe='')}"


def _owners(site: str) -> str:
    return f"{_PREFIX}e:{site}"


def _use(site: str) -> str:
    return f"{_PREFIX}u:{site}"


def _due(what: Due, site: str = "") -> str:
    return f"{_PREFIX}due:{what.value}:{site}" if what is Due.STOP else f"{_PREFIX}due:{what.value}"


def _deadline(job: Job | None) -> Instant | None:
    if job is None or job.deleted or job.phase is not Phase.EXECUTING:
        return None
    if job.begun is None or not job.duration:
        return None
    return job.begun + job.duration * 1000


def _moves(before: Job | None, after: Job) -> Iterator[Command]:
    """The commands that bring the indexes from ``before`` to ``after``, and tell of it."""
    was, now = _list(before), _list(after)
    if was != now:
        if was:
            yield "ZREM", was, after.id
        if now:
            yield "ZADD", now, after.created, after.id
    workload = before.workload if before else Workload.NONE
    if workload is not after.workload:
        yield from _leaving(workload, before or after)
        yield from _entering(workload, after)
    if (
        before
        and workload is not Workload.NONE
        and (after.workload is Workload.NONE or before.attempt != after.attempt)
    ):
        yield "DEL", _counts(after.id)
    for what, then, at in (
        (Due.DESTRUCTION, _destruction(before), _destruction(after)),
        (Due.DEADLINE, _deadline(before), _deadline(after)),
    ):
        if then != at:
            yield ("ZREM", _due(what), after.id) if at is None else ("ZADD", _due(what), at, after.id)
    if _over(after) and _over(after) != _over(before):
        yield "ZADD", _due(Due.CLEARANCE), 0, after.id
    if kind := _kind(before, after):
        yield (
            *("XADD", _EVENTS, "MAXLEN", "~", _EVENTS_KEPT, "*", "j", after.id),
            *("p", "" if after.deleted else after.phase, "o", after.owner, "s", after.service, "k", kind),
        )


def _leaving(workload: Workload, job: Job) -> Iterator[Command]:
    if workload is Workload.WAITING:
        yield "ZREM", _line(job), job.id  # `claim` clears away an owner with an empty line
    elif workload is Workload.CLAIMED:
        yield "ZREM", _due(Due.CLAIM), job.id
    elif workload is Workload.STOPPING:
        yield "ZREM", _due(Due.STOP, job.site), job.id


def _entering(workload: Workload, job: Job) -> Iterator[Command]:
    if job.workload is Workload.WAITING:
        since = job.queued or job.created
        yield "ZADD", _line(job), since, job.id
        yield "ZADD", _owners(job.site), "NX", 0, quote(job.owner, safe="")
    elif job.workload is Workload.STOPPING:
        yield "ZADD", _due(Due.STOP, job.site), job.ended or job.created, job.id
    if job.workload.holds_slot != workload.holds_slot:
        sign = 1 if job.workload.holds_slot else -1
        yield "HINCRBY", _use(job.site), "jobs", sign
        yield "HINCRBY", _use(job.site), "cpu", sign * job.cpu_milli
        yield "HINCRBY", _use(job.site), "memory", sign * job.memory_bytes


def _destruction(job: Job | None) -> Instant | None:
    # What is to be stopped first is not due meanwhile, lest it keep back those that are.
    return None if job is None or _over(job) or job.finalising else job.destruction


def _over(job: Job | None) -> str:
    """What has become of a job whose content is to be cleared away, '' for any other."""
    if job is None:
        return ""
    return "deleted" if job.deleted else "archived" if job.phase is Phase.ARCHIVED else ""


def _kind(before: Job | None, after: Job) -> str:
    if before is None or before.phase is not after.phase or before.deleted != after.deleted:
        return "phase"
    told = before.reason, before.attempt, before.destruction, before.finalising
    return "change" if told != (after.reason, after.attempt, after.destruction, after.finalising) else ""


def _writes(before: Job | None, after: Job) -> Iterator[Command]:
    """The commands that write the record itself."""
    old = records.fields(before) if before else {}
    new = records.fields(after)
    changed = [word for field, value in new.items() if old.get(field) != value for word in (field, value)]
    if changed:
        yield "HSET", _job(after.id), *changed
    dropped = [field for field in old if field not in new]
    if dropped:
        yield "HDEL", _job(after.id), *dropped
    for key, was, now in (
        (_spec(after.id), records.spec(before) if before else "", records.spec(after)),
        (_outcome(after.id), records.outcome(before) if before else "", records.outcome(after)),
    ):
        if was != now:
            yield ("SET", key, now) if now else ("DEL", key)


def _words(commands: Iterable[Command]) -> Iterator[str | int]:
    for command in commands:
        yield len(command)
        yield from command


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
        log.exception("one record is passed over")
        return None


class RedisStore:
    """Jobs in one Redis. Thread-safe, and fit for gevent; each thread uses a connection of its own."""

    def __init__(self, url: str, *, max_connections: int = 1000) -> None:
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
        self._count = self._script("count")
        self._cleared = self._script("cleared")
        self._lease = self._script("lease")
        self._release = self._script("release")
        self._select = self._script("select")

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
        reserved = any(parameter.upload for parameter in job.parameters)
        keys = [
            _job(job.id),
            f"{_PREFIX}i:{digest}" if key else "",
            _due(Due.CLEARANCE) if reserved else "",
        ]
        words = [job.id, fingerprint or "-", _KEY_SECONDS, *self.creation(job)]
        with _reached():
            stored_id = self._create(keys, words)
        if stored_id == job.id:
            return job
        if stored_id == "!":
            raise ReservationLapsed(job.id)
        stored = self.get(stored_id) if stored_id else None
        if stored is None:
            # Also when the job made then was deleted since: it cannot be given again.
            raise KeyReused(key)
        return stored

    @staticmethod
    def creation(job: Job) -> list[str | int]:
        """The commands that create a job, each as its length and its words, as the scripts take them."""
        return list(_words([*_writes(None, job), *_moves(None, job)]))

    def get(self, job_id: str) -> Job | None:
        """See `JobStore.get`. A script, since that is one command and half the work of a pipeline."""
        with _reached():
            flat, *texts = self._read([_job(job_id), _spec(job_id), _outcome(job_id)])
        return records.job(job_id, dict(zip(flat[::2], flat[1::2], strict=True)), *texts) if flat else None

    def get_many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """See `JobStore.get_many`."""
        with _reached(), self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(_job(job_id))
                pipe.mget(_spec(job_id), _outcome(job_id))
            replies = pipe.execute()
        return [
            _readable(job_id, written, *texts) if written else None
            for job_id, written, texts in zip(job_ids, replies[::2], replies[1::2], strict=True)
        ]

    def select(self, selection: Selection) -> list[Job]:
        """See `JobStore.select`. Parameters, results and reasons are left out."""
        keys = [_list_of(selection.service, selection.owner, phase) for phase in sorted(selection.phases)]
        lowest = "-inf" if selection.after is None else f"({selection.after}"
        created, job_id = selection.before or ("", "")
        highest = created if selection.before else "+inf"
        with _reached():
            found = self._select(keys, [f"{_PREFIX}j:", selection.limit, lowest, highest, created, job_id])
        jobs = []
        for found_id, flat in zip(found[::2], found[1::2], strict=True):
            if flat:
                jobs.append(records.job(found_id, dict(zip(flat[::2], flat[1::2], strict=True))))
        return jobs

    def change(self, before: Job, after: Job, lease: Lease | None = None) -> bool:
        """See `JobStore.change`."""
        keys = [_job(before.id), f"{_PREFIX}lease:{lease.name}" if lease else ""]
        words = [before.version, lease.fence if lease else 0]
        words.extend(_words(_writes(before, after)))  # type: ignore[arg-type]
        words.extend(_words(_moves(before, after)))  # type: ignore[arg-type]
        with _reached():
            answer = self._change(keys, words)
        if answer == -1:
            raise FencedOff(f"{lease.name if lease else ''} has passed to another holder")
        return bool(answer)

    def reserve(self, job_id: str, until: Instant) -> None:
        """See `JobStore.reserve`."""
        with _reached():
            self.client.zadd(_due(Due.CLEARANCE), {job_id: until})

    def cleared(self, job_id: str, seen: Job | None, *, forget: bool = False) -> bool:
        """See `JobStore.cleared`."""
        keys = [_due(Due.CLEARANCE), _job(job_id), _spec(job_id), _outcome(job_id), _counts(job_id)]
        with _reached():
            done = self._cleared(keys, [job_id, "" if seen is None else seen.version, int(forget)])
        return bool(done)

    # -- work --------------------------------------------------------------------------------------

    def claim(self, site: str, capacity: Capacity, seconds: float) -> str | None:
        """See `JobStore.claim`."""
        keys = [_owners(site), _use(site), _due(Due.CLAIM), f"{_PREFIX}t:{site}", f"{_PREFIX}turn:{site}"]
        words: list[str | int] = [
            *(
                f"{_PREFIX}w:{site}:",
                f"{_PREFIX}j:",
                capacity.jobs,
                capacity.cpu_milli,
                capacity.memory_bytes,
            ),
            *(int(seconds * 1000), _OWNERS_LOOKED_AT),
        ]
        with _reached():
            claimed: str | None = self._claim(keys, words)
        return claimed

    def report(self, job_id: str, attempt: int, done: int, of: int) -> None:
        """See `JobStore.report`."""
        with _reached():
            self._report([_job(job_id), _EVENTS], [attempt, f"{done}/{of}", _EVENTS_KEPT, job_id])

    def count(self, job_id: str, attempt: int, planned: Sequence[Planned], quota: Quota) -> int | None:
        """See `JobStore.count`. 50 bytes of Redis a name, while the attempt lasts."""
        words: list[str | int] = [attempt, quota.bytes, quota.files, quota.log_bytes]
        for one in planned:
            if one.offset is None:
                words += [hashlib.sha256(one.name.encode()).hexdigest()[:24], one.size, ""]
            else:
                words += [f"log:{one.name}", one.size, one.offset]
        with _reached():
            over = self._count([_job(job_id), _counts(job_id)], words)
        return int(over) - 1 if over else None

    def due(self, what: Due, now: Instant, site: str = "", limit: int = 100) -> list[str]:
        """See `JobStore.due`."""
        with _reached():
            found = self.client.zrange(_due(what, site), "-inf", now, byscore=True, offset=0, num=limit)
        return [str(job_id) for job_id in found]

    def now(self) -> Instant:
        """See `JobStore.now`."""
        with _reached():
            seconds, microseconds = self._connections.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def waiting(self, site: str) -> int:
        """See `JobStore.waiting`."""
        with _reached():
            return int(self.client.zcard(_owners(site)))

    # -- leases and events ---------------------------------------------------------------------------

    def lease(self, name: str, holder: str, seconds: float) -> Lease | None:
        """See `JobStore.lease`."""
        with _reached():
            fence = self._lease([f"{_PREFIX}lease:{name}", _FENCE], [holder, int(seconds * 1000)])
        return Lease(name, holder, int(fence)) if fence else None

    def release(self, lease: Lease) -> None:
        """See `JobStore.release`."""
        with _reached():
            self._release([f"{_PREFIX}lease:{lease.name}"], [lease.fence])

    def events(self, after: str, timeout: float) -> list[JobEvent]:
        """See `JobStore.events`."""
        with _reached():
            answer: Any = self._patient.xread(
                {_EVENTS: after or "0-0"}, count=1000, block=max(1, int(timeout * 1000))
            )
        if not answer:
            return []
        entries = answer[0][1] if isinstance(answer, list) else answer[_EVENTS][0]
        return [JobEvent(entry_id, e["j"], e["o"], e["s"], e["p"], e["k"]) for entry_id, e in entries]

    def last_event(self) -> str:
        """See `JobStore.last_event`."""
        with _reached():
            newest = self.client.xrevrange(_EVENTS, count=1)
        return str(newest[0][0]) if newest else ""

    # -- health ---------------------------------------------------------------------------------------

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
