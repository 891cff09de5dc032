"""200 jobs in flight while every kind of process is killed again and again, Redis and supervisors too."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.crash.machine import ROLES, Machine, machine
from tests.waiting import until
from uws_server.domain.job import Workload

JOBS = 200
SUPERVISORS = 5
ROUNDS = 2  # each kills every kind of process once, in random order
SLOWER = 1.2


class Chaos:
    """Kills processes in a thread of its own, one after the other, and starts each again as `up` would.

    Each round of kills takes longer than the one before, so that work is done between two of them however
    slow the machine is.
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        self._machine = machine
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.killed: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for role, pause in self._roles():
                self._machine.kill(role)
                self.killed[role] += 1
                self._machine.revive()
                self._stop.wait(self._random.uniform(0.5, 2.0) * pause)
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  told to the test
            self.error = error

    def _roles(self) -> Iterator[tuple[str, float]]:
        for number in itertools.count():
            for role in self._random.sample([*ROLES, "redis"], len(ROLES) + 1):
                yield role, SLOWER**number

    def everything_killed(self, times: int) -> bool:
        if self.error:
            raise self.error
        return all(self.killed[role] >= times for role in (*ROLES, "redis"))

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        if self.error:
            raise self.error


@pytest.mark.serial
@pytest.mark.timeout(900)
@pytest.mark.covers("3:crash-200", "3:reconciler", "3:queue-lost-wakeup", "3:up-comes-back")
def test_200_jobs_in_flight(tmp_path_factory: pytest.TempPathFactory) -> None:
    with machine(tmp_path_factory.mktemp("m"), jobs=JOBS) as site:
        site.gate.shut()
        chaos = Chaos(site, seed=3)
        with ThreadPoolExecutor(8) as clients:
            ids = list(clients.map(lambda _: site.submit(timeout=120), range(JOBS)))
        assert len(set(ids)) == JOBS
        until(lambda: len(site.gate.waiting()) == JOBS, lambda: _said(site, ids), 400)
        lost = _kill_supervisors(site)
        until(lambda: chaos.everything_killed(ROUNDS), lambda: chaos.killed, 120)
        site.gate.open()
        until(lambda: _settled(site, ids), lambda: _said(site, ids), 400)
        chaos.end()

        jobs = {job_id: site.job(job_id) for job_id in ids}
        assert Counter(job.phase for job in jobs.values()) == {"COMPLETED": JOBS}
        assert {job_id for job_id, job in jobs.items() if job.attempt == 2} == lost
        assert {job.attempt for job in jobs.values()} == {1, 2}
        assert len(site.gate.starts) == JOBS + SUPERVISORS
        assert set(site.gate.starts.values()) == {1}, "an attempt's code was started twice"
        site.revive()
        site.ready()
        for job_id, job in jobs.items():
            assert site.result(job_id) == f"attempt {job.attempt}\n"
        site.quiet()
        print(f"killed: {dict(chaos.killed)}, and {SUPERVISORS} supervisors")


def _kill_supervisors(site: Machine) -> set[str]:
    """Kill some, of jobs whose code runs; the jobs."""
    chosen = random.Random(3).sample(sorted(site.supervisors(), key=lambda found: found[1]), SUPERVISORS)
    for pid, name in chosen:
        assert name.endswith(".1")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {name.partition(".")[0] for _, name in chosen}


def _settled(site: Machine, ids: list[str]) -> bool:
    try:
        found = site.store.get_many(ids)
    except Exception:  # noqa: BLE001  Redis is just being killed
        return False
    assert all(job is not None for job in found), "a job is lost"
    return all(job is not None and job.phase.final and job.workload is Workload.NONE for job in found)


def _said(site: Machine, ids: list[str]) -> str:
    found = site.store.get_many(ids)
    states = Counter("lost" if job is None else f"{job.phase} {job.workload!r} {job.reason}" for job in found)
    return f"{len(site.gate.waiting())} run; {states}; deaths: {Counter(site.deaths)}"
