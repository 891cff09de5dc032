"""WAIT with thousands of callers: how late each is woken, what it takes, and what others feel meanwhile."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.parts import SERVICE, Server, create, memory
from uws_server.domain.events import AbortRequested, advance
from uws_server.store.redis import RedisStore

_READS_A_SECOND = 100


def measure(directory: Path, server: Server, waiters: int, changes_a_second: float) -> dict[str, Any]:
    """``waiters`` on as many jobs that change one after the other, then all on one job."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    store = RedisStore(f"unix://{directory}/redis/socket")
    jobs = f"{server.url}/{SERVICE}/async"
    try:
        each = [create(jobs).rpartition("/")[2] for _ in range(waiters)]
        apart = asyncio.run(_Run(store, server, changes_a_second).many(each))
        one = create(jobs).rpartition("/")[2]
        together = asyncio.run(_Run(store, server, changes_a_second).one(one, waiters))
    finally:
        store.close()
    return {"waiters": waiters, "changes_per_s": changes_a_second, "apart": apart, "on_one_job": together}


class _Run:
    """One round of waiting. A wake-up is from the change's commit to the answer's last byte."""

    def __init__(self, store: RedisStore, server: Server, changes_a_second: float) -> None:
        self._store = store
        self._server = server
        self._host, port = server.url.removeprefix("http://").split(":")
        self._port = int(port)
        self._pause = 1 / changes_a_second
        self._changed: dict[str, float] = {}
        self._answered: list[tuple[str, float]] = []
        self._reads: list[float] = []
        self._to_ask = 0
        self._all_asked = asyncio.Event()

    async def many(self, job_ids: list[str]) -> dict[str, float]:
        """A waiter for each job; jobs change in turn."""
        return await self._round(job_ids, lambda: self._change_each(job_ids))

    async def one(self, job_id: str, waiters: int) -> dict[str, float]:
        """All wait for one job."""
        return await self._round([job_id] * waiters, lambda: self._change_each([job_id]))

    async def _round(self, waited: list[str], change: Callable[[], Awaitable[None]]) -> dict[str, float]:
        before = memory(self._server.web())
        alone = await self._others(seconds=3)
        self._to_ask = len(waited)
        tasks = []
        for job_id in waited:
            tasks.append(asyncio.create_task(self._wait(job_id)))
            if len(tasks) % 50 == 0:
                await asyncio.sleep(0.01)
        await self._all_asked.wait()
        await asyncio.sleep(1)  # the last requests are on their way through the server
        parked = (memory(self._server.web()) - before) / len(waited)
        stop = asyncio.Event()
        others = asyncio.create_task(self._read(stop))
        await change()
        await asyncio.gather(*tasks)
        stop.set()
        await others
        # An answer may be here before the changing thread has noted the time of the change.
        woken = [max(0.0, now - self._changed[job_id]) * 1000 for job_id, now in self._answered]
        return {
            "wake_p50_ms": statistics.median(woken),
            "wake_p99_ms": _p99(woken),
            "wake_last_ms": max(woken),
            "bytes_a_waiter": parked,
            "others_read_p99_ms_alone": alone,
            "others_read_p50_ms": statistics.median(self._reads),
            "others_read_p99_ms": _p99(self._reads),
        }

    async def _others(self, seconds: float) -> float:
        stop = asyncio.Event()
        reading = asyncio.create_task(self._read(stop))
        await asyncio.sleep(seconds)
        stop.set()
        await reading
        p99 = _p99(self._reads)
        self._reads.clear()
        return p99

    async def _change_each(self, job_ids: list[str]) -> None:
        due = time.perf_counter()
        for job_id in job_ids:
            await asyncio.to_thread(self._change, job_id)
            due += self._pause
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    def _change(self, job_id: str) -> None:
        job = self._store.get(job_id)
        if job is None or not self._store.change(job, advance(job, AbortRequested(), job.created)):
            raise RuntimeError(f"job {job_id} could not be changed")
        self._changed[job_id] = time.perf_counter()

    async def _wait(self, job_id: str) -> None:
        body = await self._get(f"/{SERVICE}/async/{job_id}?WAIT=-1", asked=True)
        now = time.perf_counter()
        if b">ABORTED<" not in body:
            raise RuntimeError(f"job {job_id} was answered early: more waiters than the server parks")
        self._answered.append((job_id, now))

    async def _read(self, stop: asyncio.Event) -> None:
        other = create(f"{self._server.url}/{SERVICE}/async").removeprefix(self._server.url)
        due = time.perf_counter()
        while not stop.is_set():
            began = time.perf_counter()
            await self._get(other)
            self._reads.append((time.perf_counter() - began) * 1000)
            due += 1 / _READS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def _get(self, path: str, asked: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        if asked:
            self._to_ask -= 1
            if not self._to_ask:
                self._all_asked.set()
        body = await reader.read()
        writer.close()
        return body


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]
