"""Job lists of a few and of very many jobs, and what one job takes of Redis."""

from __future__ import annotations

import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from benchmarks.parts import SERVICE, Server
from uws_server.domain.job import Job, Parameter
from uws_server.store.redis import RedisStore

_AT_ONCE = 5000
_WEEKS = 8 * 7 * 86_400_000


def measure(directory: Path, server: Server, sizes: tuple[int, ...]) -> dict[str, Any]:
    """p50 of a list page and of ``LAST=10`` by how many jobs are stored; bytes of Redis a job."""
    client = redis.Redis.from_url(f"unix://{directory}/redis/socket", socket_timeout=120)
    store = RedisStore(f"unix://{directory}/redis/socket")
    client.config_set("appendfsync", "no")  # filling only; nothing is written while lists are read
    answer: dict[str, Any] = {}
    stored, began = 0, client.info("memory")["used_memory"]
    for size in sizes:
        for _ in _fill(store, client, stored, size):
            pass
        stored = size
        used = client.info("memory")["used_memory"] - began
        jobs = f"{server.url}/{SERVICE}/async"
        answer[str(size)] = {
            "page_p50_ms": _p50(jobs),
            "last_10_p50_ms": _p50(f"{jobs}?LAST=10"),
            "redis_bytes_a_job": used / size,
        }
    client.config_set("appendfsync", "always")
    store.close()
    return answer


def _fill(store: RedisStore, client: redis.Redis, stored: int, size: int) -> Iterator[int]:
    script = client.register_script(Path(__file__).with_name("fill.lua").read_text())
    created = time.time_ns() // 10**6 - _WEEKS
    job = Job(
        id="9" * 26,
        service=SERVICE,
        owner="",
        created=created,
        parameters=(
            Parameter("light_curve", "https://archive.example/macho/lc_1.3444.614.R.mjd"),
            Parameter("min_period", "0.1"),
        ),
        duration=3600,
        destruction=created + 2 * _WEEKS,
        template="0" * 64,
    )
    words = store.creation(job)
    while stored < size:
        count = min(_AT_ONCE, size - stored)
        script(args=[count, job.id, created, stored, *words])
        stored += count
        yield stored


def _p50(url: str) -> float:
    def once() -> float:
        began = time.perf_counter()
        with urllib.request.urlopen(url, timeout=60) as answer:
            answer.read()
        return (time.perf_counter() - began) * 1000

    once()
    return statistics.median(once() for _ in range(31))
