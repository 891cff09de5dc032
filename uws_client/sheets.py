"""Jobs on paper: the list, one job with all that is known of it, its results, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from uws_client.documents import Job, JobRef, Parameter, Phase, Result, as_json
from uws_client.downloads import Downloaded
from uws_client.printing import cut, duration, instant, printable, roughly, size, table

_VALUE_CHARS = 200


def described(job: Job) -> dict[str, Any]:
    """A job for ``--json``."""
    return {**as_json(job), "progress": job.progress}


def job_list(found: Sequence[tuple[str, JobRef]], now: datetime, width: int | None = None) -> str:
    """Jobs with the names of their services.

    Where a line of ``width`` characters cannot hold all, the instant is left out and the run id cut; a
    job's name stays whole, to be copied.
    """
    rows = [
        (
            printable(f"{service}/{ref.id}" if service else ref.id),
            ref.phase.value,
            roughly((now - ref.created).total_seconds()) if ref.created else "",
            instant(ref.created) if ref.created else "",
            " ".join(printable(ref.run_id or "").split()),
        )
        for service, ref in found
    ]
    head = ("JOB", "PHASE", "AGE>", "CREATED", "RUN ID")
    whole = table(head, rows)
    if width is None or max(map(len, whole.splitlines())) <= width:
        return whole
    without = tuple(tuple(cell for i, cell in enumerate(row) if i != 3) for row in (head, *rows))
    return table(without[0], without[1:], width=width)


def job_sheet(job: Job, detail: str, now: datetime) -> str:
    """All that is known of a job, and what to do next. ``detail``: the long text of its error."""
    lines = "\n".join(f"{name:<12}{printable(value)}" for name, value in _facts(job, now) if value)
    pieces = [lines]
    if job.parameters:
        rows = [(printable(one.name), _value(one, job)) for one in job.parameters]
        pieces.append("parameters\n" + table(("", ""), rows, indent="  "))
    if job.results:
        pieces.append("results\n" + table(("", ">", ""), _result_rows(job.results), indent="  "))
    if detail.strip():
        pieces.append(printable(detail.strip()))
    if steps := tuple(next_steps(job)):
        pieces.append("next\n" + "\n".join(f"  {printable(step)}" for step in steps))
    return "\n\n".join(pieces)


def next_steps(job: Job) -> Iterator[str]:
    """Commands that make sense for a job as it is now."""
    if job.phase in {Phase.PENDING, Phase.HELD}:
        yield f"uws-job run {job.url}"
    elif not job.phase.final:
        yield f"uws-job wait {job.url}"
        yield f"uws-job logs -f {job.url}"
        yield f"uws-job abort {job.url}"
    if job.phase in {Phase.ERROR, Phase.ABORTED} and job.result("stderr"):
        yield f"uws-job logs --stderr {job.url}"
    if job.phase.final and job.results:
        yield f"uws-job results {job.url} DIRECTORY"


def result_list(results: Sequence[Result]) -> str:
    """Results, not fetched."""
    addresses = (printable(result.url) for result in results)
    rows = [(*row, address) for row, address in zip(_result_rows(results), addresses, strict=True)]
    return table(("RESULT", "SIZE>", "TYPE", "ADDRESS"), rows)


def fetched_list(got: Sequence[Downloaded]) -> str:
    """What was fetched: sizes, checksums, files."""
    rows = [
        (
            printable(one.id),
            size(one.size),
            "sha256 ok" if one.checked else "no checksum given",
            printable(str(one.path)),
        )
        for one in got
    ]
    return table(("RESULT", "SIZE>", "CHECK", "FILE"), rows)


def _facts(job: Job, now: datetime) -> Iterator[tuple[str, str]]:
    done = job.progress
    yield "job", job.url
    yield "phase", job.phase.value + (" (results may still come)" if job.finalising else "")
    yield "error", job.error.message if job.error else ""
    yield "progress", f"{done[0]} of {done[1]}" if done else ""
    yield "reason", job.reason
    yield "run id", job.run_id or ""
    yield "owner", job.owner or ""
    yield "quote", instant(job.quote) if job.quote else ""
    yield "created", _ago(job.created, now)
    yield "started", _ago(job.started, now)
    ran = (
        f"; it ran {roughly((job.ended - job.started).total_seconds())}" if job.ended and job.started else ""
    )
    yield "ended", _ago(job.ended, now) + ran if job.ended else ""
    yield "time limit", duration(job.duration) if job.duration else ""
    yield "destroyed", _ago(job.destruction, now)


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return ""
    since = (now - moment).total_seconds()
    return (
        f"{instant(moment)}, {roughly(since)} ago"
        if since >= 0
        else f"{instant(moment)}, in {roughly(-since)}"
    )


def _value(one: Parameter, job: Job) -> str:
    if one.by_reference and one.value.startswith(job.url + "/"):
        return "a file that was sent along"
    if one.by_reference:
        return f"from {printable(one.value)}"
    return cut(" ".join(printable(one.value).split()), _VALUE_CHARS)


def _result_rows(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    return [
        (
            printable(result.id),
            "" if result.size is None else size(result.size),
            printable(result.media_type or ""),
        )
        for result in results
    ]
