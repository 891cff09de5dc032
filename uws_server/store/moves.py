"""What a change of a job writes in Redis: its record, its places in the indexes, and its event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uws_server.domain.instants import Instant
from uws_server.domain.job import Job, Workload
from uws_server.domain.phase import Phase
from uws_server.store import keys, records
from uws_server.store.base import Due, turned_away

EVENTS_KEPT = 200_000

Command = Sequence[str | int]


def commands(before: Job | None, after: Job) -> list[str | int]:
    """The commands that bring everything from ``before`` to ``after``: each as its length and its words.

    A script carries them out in one call (``change.lua``, ``create.lua``).
    """
    return [
        word
        for command in (*_writes(before, after), *_moves(before, after))
        for word in (len(command), *command)
    ]


def _writes(before: Job | None, after: Job) -> Iterator[Command]:
    """The commands that write the record itself."""
    old = records.fields(before) if before else {}
    new = records.fields(after)
    changed = [word for field, value in new.items() if old.get(field) != value for word in (field, value)]
    if changed:
        yield "HSET", keys.job(after.id), *changed
    dropped = [field for field in old if field not in new]
    if dropped:
        yield "HDEL", keys.job(after.id), *dropped
    for key, was, now in (
        (keys.parameters(after.id), records.parameters(before) if before else "", records.parameters(after)),
        (keys.outcome(after.id), records.outcome(before) if before else "", records.outcome(after)),
    ):
        if was != now:
            yield ("SET", key, now) if now else ("DEL", key)


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
        if turned_away(before, after):
            yield "HDEL", keys.turns(after.site), keys.member(after.owner)
            yield "ZADD", keys.owners(after.site), 0, keys.member(after.owner)
    if (
        before
        and workload is not Workload.NONE
        and (after.workload is Workload.NONE or before.attempt != after.attempt)
    ):
        yield "DEL", keys.counts(after.id)
    yield from _given(before, after)
    for what, then, at in (
        (Due.DESTRUCTION, _destruction(before), _destruction(after)),
        (Due.DEADLINE, _deadline(before), _deadline(after)),
    ):
        if then != at:
            yield ("ZREM", keys.due(what), after.id) if at is None else ("ZADD", keys.due(what), at, after.id)
    if _over(after) and _over(after) != _over(before):
        yield "ZADD", keys.due(Due.CLEARANCE), 0, after.id
    if kind := _kind(before, after):
        yield (
            *("XADD", keys.EVENTS, "MAXLEN", "~", EVENTS_KEPT, "*", "j", after.id),
            *("p", "" if after.deleted else after.phase, "o", after.owner, "s", after.service, "k", kind),
        )


def _leaving(workload: Workload, job: Job) -> Iterator[Command]:
    if workload is Workload.WAITING:
        yield "ZREM", _line(job), job.id  # `claim` clears away an owner with an empty line
    elif workload is Workload.CLAIMED:
        yield "ZREM", keys.due(Due.CLAIM), job.id
    elif workload is Workload.STOPPING:
        yield "ZREM", keys.due(Due.STOP, job.site), job.id


def _entering(workload: Workload, job: Job) -> Iterator[Command]:
    if job.workload is Workload.WAITING:
        yield "ZADD", _line(job), job.in_line_since, job.id
        yield "ZADD", keys.owners(job.site), "NX", 0, keys.member(job.owner)
    elif job.workload is Workload.STOPPING:
        yield "ZADD", keys.due(Due.STOP, job.site), job.ended or job.created, job.id
    if job.workload.holds_slot != workload.holds_slot:
        sign = 1 if job.workload.holds_slot else -1
        yield "HINCRBY", keys.use(job.site), "jobs", sign
        yield "HINCRBY", keys.use(job.site), "cpu", sign * job.cpu_milli
        yield "HINCRBY", keys.use(job.site), "memory", sign * job.memory_bytes


def _given(before: Job | None, after: Job) -> Iterator[Command]:
    """What the site has been given, and what of it is no longer wanted there."""
    site = keys.given(after.site)
    same = before is not None and before.attempt == after.attempt
    if before and before.touched and not (same and after.workload not in (Workload.NONE, Workload.STOPPING)):
        yield "ZADD", site, 0, keys.attempt(before.id, before.attempt)
    if after.workload is Workload.ACTIVE and not (same and before and before.workload is Workload.ACTIVE):
        yield "ZADD", site, 1, keys.attempt(after.id, after.attempt)


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


def _list(job: Job | None) -> str | None:
    return None if job is None or job.deleted else keys.jobs(job.service, job.owner, job.phase)


def _line(job: Job) -> str:
    return keys.lines(job.site) + keys.member(job.owner)


def _deadline(job: Job | None) -> Instant | None:
    if job is None or job.deleted or job.phase is not Phase.EXECUTING:
        return None
    if job.attempt_started is None or not job.duration:
        return None
    return job.attempt_started + job.duration * 1000
