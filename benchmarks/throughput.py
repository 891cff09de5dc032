"""Submissions and reads a second beside the reference, in turns, so that both meet the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.parts import FORM, SERVICE, Server, create, ours, wrk

CONNECTIONS = (1, 16, 64)


def measure(directory: Path, bare: Server, server: Server, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates by number of connections, their ratios, and how many `PHASE=RUN` a second."""
    jobs = f"{server.url}/{SERVICE}/async"
    created = create(jobs)
    bare_path, path = directory / "bare.paths", directory / "paths"
    bare_path.write_text(create(f"{bare.url}/jobs").replace(bare.url, "") + "\n")
    path.write_text(created.replace(server.url, "") + "\n")

    def creations(connections: int) -> Iterator[tuple[float, float]]:
        post = {"METHOD": "POST", "WANTED": "303", "BODY": FORM}
        for _ in range(rounds):
            bare_rate = wrk(f"{bare.url}/jobs", connections, seconds, **post)["rate"]
            yield bare_rate, wrk(jobs, connections, seconds, **post)["rate"]

    def reads(connections: int) -> Iterator[tuple[float, float]]:
        for _ in range(rounds):
            bare_rate = wrk(bare.url, connections, seconds, PATHS=str(bare_path))["rate"]
            yield bare_rate, wrk(server.url, connections, seconds, PATHS=str(path))["rate"]

    return {
        "creations": {str(n): _figures(list(creations(n))) for n in CONNECTIONS},
        "reads": {str(n): _figures(list(reads(n))) for n in CONNECTIONS},
        "runs": _runs(directory),
    }


def _figures(pairs: list[tuple[float, float]]) -> dict[str, float]:
    return {
        "reference_per_s": statistics.median(bare for bare, _ in pairs),
        "ours_per_s": statistics.median(rate for _, rate in pairs),
        "ratio": statistics.median(rate / bare for bare, rate in pairs),
    }


def _runs(directory: Path) -> dict[str, float]:
    """`PHASE=RUN` of jobs that wait then, as nobody is there to start them."""
    with ours(directory / "runs", UWS_SITES__LOCAL__START_WORKERS="0") as server:
        paths = directory / "run.paths"
        addresses = [create(f"{server.url}/{SERVICE}/async") for _ in range(3000)]
        paths.write_text("".join(f"{a.replace(server.url, '')}/phase\n" for a in addresses))
        # Each job once: fewer requests than jobs in this time.
        figures = wrk(server.url, 4, 1, METHOD="POST", WANTED="303", BODY="PHASE=RUN", PATHS=str(paths))
    return {"ours_per_s": figures["rate"], "p50_ms": figures["p50_ms"]}
