"""The figures as a page: each beside what it is to be, said plainly where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEAD = """# Performance

Written by `scripts/bench` from docs/performance.json; no figure here is typed by hand. Server, load and
reference share the machine. The reference is the least that Flask, gunicorn with gevent and a Redis that
fsyncs each write cost for one creation and one read (`benchmarks/reference.py`): no checks, no UWS. It
runs in turns with the server, so that ratios hold where absolute figures vary.
"""

_HEADS = ("what", "measured", "aim", "")
_KUBERNETES = """`scripts/bench --kubernetes {jobs}`, commit {commit}, {at}, {machine}, Python {python}.
{jobs} Jobs run at once on nodes played by kwok, beside a real API server, scheduler and controllers on the
same machine; the bench plays the agents through their own code (`benchmarks/kubernetes.py`).
"""


def text(figures: dict[str, Any]) -> str:
    """docs/performance.md."""
    parts = [
        _HEAD,
        f"Commit {figures['commit']}, {figures['at']}, {figures['machine']}, Python {figures['python']}.\n",
        _table(_HEADS, list(_rows(figures))),
    ]
    if "throughput" in figures:
        parts += ["\n## Creations and reads, fsync on\n", _rates(figures["throughput"])]
    if "waits" in figures:
        parts += ["\n## WAIT\n", _waits(figures["waits"])]
    if found := figures.get("kubernetes"):
        parts += ["\n## A Kubernetes site\n", _KUBERNETES.format(**found), _table(_HEADS, _kubernetes(found))]
    return "\n".join(parts)


def _rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [_row("`up` ready", figures["up_ready_s"], "s", most=3)]
    if rates := figures.get("throughput"):
        for kind, least in (("creations", 0.7), ("reads", 1.0)):
            for connections, found in rates[kind].items():
                what = f"{kind} / reference, {connections} connections"
                rows.append(_row(what, found["ratio"], "×", least=least))
        rows.append(_row("`PHASE=RUN`", rates["runs"]["ours_per_s"], "/s"))
    if found := figures.get("lists"):
        few, many = (found[size] for size in sorted(found, key=int))
        most = max(found, key=int)
        for key, what in (("page_p50_ms", "list page"), ("last_10_p50_ms", "`LAST=10`")):
            rows.append(_row(f"{what}, {int(most):,} jobs / 1,000", many[key] / few[key], "×", most=1.5))
            rows.append(_row(f"{what} of {int(most):,} jobs, p50", many[key], "ms"))
        rows.append(_row("Redis, a job", many["redis_bytes_a_job"], "B", most=1500))
    if found := figures.get("waits"):
        apart, one = found["apart"], found["on_one_job"]
        rows.append(
            _row(f"{found['waiters']} WAITs on as many jobs, woken p99", apart["wake_p99_ms"], "ms", most=250)
        )
        rows.append(
            _row(f"{found['waiters']} WAITs on one job, last woken", one["wake_last_ms"], "ms", most=2000)
        )
        rows.append(_row("others' reads meanwhile, p99", apart["others_read_p99_ms"], "ms", most=20))
        rows.append(_row("others' reads meanwhile (one job), p99", one["others_read_p99_ms"], "ms", most=20))
        rows.append(_row("memory of a waiter", apart["bytes_a_waiter"] / 1024, "KiB"))
    if found := figures.get("starts"):
        rows.append(_row("submission → first line of user code", found["submit_to_first_line_ms"], "ms"))
        rows.append(_row("the bare command → its first line", found["bare_command_ms"], "ms"))
        ratio = found["notebook_start_ratio"]
        rows.append(_row("notebook: start to first cell / plain papermill", ratio, "×", most=1.1))
        for key, what in (
            ("papermill_whole_ms", "plain papermill, two cells"),
            ("notebook_whole_ms", "our notebook run, the same"),
            ("notebook_whole_with_html_ms", "our notebook run with the HTML rendering"),
        ):
            rows.append(_row(what, found[key], "ms"))
    return rows


def _kubernetes(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        _row("watcher, memory", found["watcher_mib"], "MiB", most=500),
        _row(
            "watcher, nothing happens, a list of everything each minute",
            found["watcher_cores_still"],
            "cores",
            most=1,
        ),
        _row(
            f"watcher, {found['ended_per_s']:.3g} jobs end a second",
            found["watcher_cores_ending"],
            "cores",
            most=1,
        ),
        _row("deciding pod event → phase, p50", found["phase_p50_ms"], "ms"),
        _row("deciding pod event → phase, p99", found["phase_p99_ms"], "ms", most=1000),
        _row("launches, one worker", found["launches_per_s"], "/s"),
        _row("launches, a bare client of one connection", found["bare_launches_per_s"], "/s"),
        _row("launches / bare client", found["launch_ratio"], "×", least=0.9),
    ]


def _row(
    what: str, value: float, unit: str, least: float | None = None, most: float | None = None
) -> tuple[str, ...]:
    missed = (least is not None and value < least) or (most is not None and value > most)
    aim = f"≥ {least:g} {unit}" if least is not None else f"≤ {most:g} {unit}" if most is not None else ""
    return what, f"{value:,.{0 if value >= 100 else 2}f} {unit}", aim, "missed" if missed else ""


def _rates(rates: dict[str, Any]) -> str:
    rows = [
        (kind, connections, f"{f['reference_per_s']:,.0f}", f"{f['ours_per_s']:,.0f}", f"{f['ratio']:.2f}")
        for kind in ("creations", "reads")
        for connections, f in rates[kind].items()
    ]
    return _table(("", "connections", "reference /s", "ours /s", "ratio"), rows)


def _waits(found: dict[str, Any]) -> str:
    rows = [
        (
            where,
            *(f"{f[key]:,.0f}" for key in ("wake_p50_ms", "wake_p99_ms", "wake_last_ms")),
            f"{f['others_read_p50_ms']:.1f} / {f['others_read_p99_ms']:.1f}",
            f"{f['others_read_p99_ms_alone']:.1f}",
        )
        for where, f in (("one job each", found["apart"]), ("all on one job", found["on_one_job"]))
    ]
    heads = (
        "waiters",
        "woken p50 ms",
        "p99 ms",
        "last ms",
        "others' reads p50 / p99 ms",
        "p99 ms without waiters",
    )
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
