"""`python -m benchmarks`: measure, write docs/performance.json and from it docs/performance.md."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import kubernetes, lists, report, starts, throughput, waits
from benchmarks.parts import ours, reference

_DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--only", choices=("throughput", "lists", "waits", "starts"), action="append")
    parser.add_argument(
        "--kubernetes",
        nargs="?",
        type=int,
        const=10_000,
        metavar="JOBS",
        help="a Kubernetes site with so many jobs at once (10,000), and nothing else; the other figures stay",
    )
    parser.add_argument("--json", action="store_true", help="print the figures and write no file")
    asked = parser.parse_args()
    if asked.kubernetes:
        with tempfile.TemporaryDirectory(prefix="uws-bench-") as temporary:
            found = kubernetes.measure(Path(temporary), asked.kubernetes)
        _write({**_before(), "kubernetes": {**_now(), **found}}, asked.json)
        return
    wanted = asked.only or ["throughput", "lists", "waits", "starts"]
    figures: dict[str, Any] = {**_now(), **{k: v for k, v in _before().items() if k == "kubernetes"}}
    with tempfile.TemporaryDirectory(prefix="uws-bench-") as temporary:
        where = Path(temporary)
        with ours(where / "ours") as server:
            figures["up_ready_s"] = server.ready_seconds
            if "throughput" in wanted:
                with reference(where / "reference") as bare:
                    rounds, seconds = (1, 1) if asked.quick else (3, 5)
                    _say("submissions and reads")
                    figures["throughput"] = throughput.measure(where, bare, server, rounds, seconds)
            if "starts" in wanted:
                _say("starts")
                figures["starts"] = starts.measure(server, 3 if asked.quick else 15)
            if "waits" in wanted:
                _say("waits")
                figures["waits"] = waits.measure(where / "ours", server, 200 if asked.quick else 5000, 200)
        if "lists" in wanted:
            _say("lists")
            sizes = (1000, 20_000) if asked.quick else (1000, 1_000_000)
            with ours(where / "lists", UWS_REDIS__DURABLE="false") as server:  # filled without fsync
                figures["lists"] = lists.measure(where / "lists", server, sizes)
    _write(figures, asked.json)


def _write(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    (_DOCS / "performance.json").write_text(json.dumps(figures, indent=2) + "\n")
    (_DOCS / "performance.md").write_text(report.text(figures))
    print(f"written: {_DOCS / 'performance.md'}")


def _before() -> dict[str, Any]:
    """What was measured before."""
    found: dict[str, Any] = json.loads((_DOCS / "performance.json").read_text())
    return found


def _now() -> dict[str, str]:
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **_machine()}


def _say(what: str) -> None:
    print(f"measuring {what} …", flush=True)


def _machine() -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    cores = len(
        [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")]
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024**2
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, check=True, cwd=_DOCS
    ).stdout.decode()
    return {
        "commit": commit.strip(),
        "machine": f"{cores} × {model}, {memory} GiB, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
