"""The local site when its processes are killed: no attempt's code runs twice, none is left behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runners.base import Cause, State
from runners.local import processes, site_files
from runners.local.leftovers import end_leftovers
from tests.integration.test_local import DAEMON, INPUT, STAY
from tests.local_site import LocalSite, local_site, modes, with_command_line
from tests.waiting import PATIENCE, until
from uws_server.domain.runspec import RunSpec

URL = "http://127.0.0.1:9/agent/v1"
COUNT = "echo run >>runs; "
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=modes())
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalSite]:
    with local_site(tmp_path / "site", request.param) as site:
        yield site


def runs(site: LocalSite, attempt: Path) -> int:
    file = attempt / "work/outputs/runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.covers("3:local-supervisor", "3:crash-start")
def test_a_killed_supervisor_takes_its_tree_along(site: LocalSite) -> None:
    mark = f"mark-{site.cgroup}-killed"
    counts = "open('runs', 'a').write('run\\n')\n"
    spec = site.start("{python}", "-c", f"{counts}{DAEMON}{STAY}", mark)
    until((site.attempt(spec) / "work/outputs/daemon").exists, "the daemon")
    site.kill_supervisor(spec)
    seen = site.reached(spec, State.LOST)
    assert with_command_line(mark) == []
    assert seen.outcome is not None
    assert (seen.outcome.cause, seen.outcome.transient) == (Cause.LOST, True)
    assert seen.started is not None
    assert seen.ended is not None
    for runner in (site.runner, site.another()):
        runner.start(spec, URL, "t")
        runner.stop(spec.job_id, 1)
    assert site.ended(spec) == seen
    assert runs(site, site.attempt(spec)) == 1


def ran_or_lost(site: LocalSite, spec: RunSpec) -> bool:
    """What is seen running may be killed between the word and the deed: then it is lost in the end."""
    seen = site.seen(spec)
    return runs(site, site.attempt(spec)) > 0 or (seen is not None and seen.state is State.LOST)


@pytest.mark.covers("3:crash-start")
def test_a_supervisor_killed_at_any_moment_runs_code_at_most_once(site: LocalSite) -> None:
    for milliseconds in range(0, 56, 8):
        spec = site.start("/bin/sh", "-c", f"{COUNT}sleep 600")
        time.sleep(milliseconds / 1000)  # the moment is the point
        site.kill_supervisor(spec)
        site.runner.start(spec, URL, "t")  # may launch it again, if its code has not been reached
        reached = site.reached(spec, State.LOST, State.RUNNING)
        if reached.state is State.RUNNING:
            until(lambda: ran_or_lost(site, spec), "user code, or the loss of it")  # noqa: B023 -- called at once
        site.runner.stop(spec.job_id, 1)
        ended = site.ended(spec)
        assert ended.state in (State.LOST, State.ENDED)
        assert runs(site, site.attempt(spec)) <= 1


@pytest.mark.covers("3:crash-start")
def test_a_supervisor_killed_while_staging_is_lost_before_code_ran(site: LocalSite) -> None:
    (site.directory / "stage-in").write_text("touch $2/staging; while :; do sleep 0.05; done")
    spec = site.start("/bin/sh", "-c", COUNT, inputs=INPUT)
    until((site.attempt(spec) / "staging").exists, "staging")
    site.kill_supervisor(spec)
    assert site.ended(spec).state is State.LOST
    site.runner.start(spec, URL, "t")
    assert site.ended(spec).started is None
    assert runs(site, site.attempt(spec)) == 0
    (site.directory / "stage-in").unlink()
    second = replace(spec, attempt=2)
    site.runner.start(second, URL, "t")
    assert site.ended(second).outcome
    assert runs(site, site.attempt(second)) == 1


@pytest.mark.covers("3:crash-start")
def test_a_worker_killed_before_it_could_spawn(site: LocalSite) -> None:
    spec = site.spec("/bin/sh", "-c", COUNT)
    directory = site.attempt(spec)
    directory.mkdir(mode=0o700)
    site.reached(spec, State.UNSTARTED)
    site.runner.prepare(spec, URL, "t")  # and killed again, one step later
    site.reached(spec, State.UNSTARTED)
    assert runs(site, directory) == 0
    later = site.another()
    later.start(spec, URL, "t")
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.SUCCEEDED
    assert runs(site, directory) == 1


@pytest.mark.covers("3:crash-start", "3:local-supervisor")
@pytest.mark.parametrize("moment", ["launched", "after"])
def test_an_attempt_outlives_the_worker_that_started_it(site: LocalSite, moment: str) -> None:
    spec = site.spec("/bin/sh", "-c", f"{COUNT}while [ ! -e go ]; do sleep 0.05; done")
    code = """
import os, pickle, signal, sys
from runners.local import site_files
from runners.local.runner import LocalRunner
directory, settings, spec, moment = pickle.load(sys.stdin.buffer)
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
runner = LocalRunner(directory, settings)
if moment == "launched":
    spawn = os.posix_spawn
    def spawn_and_die(*arguments, **named):
        spawn(*arguments, **named)
        die()
    os.posix_spawn = spawn_and_die
runner.start(spec, "http://127.0.0.1:9", "t")
die()
"""
    given = pickle.dumps((site.directory, site.settings, spec, moment))
    done = subprocess.run([sys.executable, "-c", code], input=given, cwd=ROOT, check=False, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    later = site.another()
    later.start(spec, URL, "t")  # the lapsed claim is taken again, with the same attempt
    site.reached(spec, State.RUNNING)
    until(lambda: runs(site, site.attempt(spec)), "user code")
    supervisor = site.supervisor(spec)
    assert os.getsid(supervisor) == supervisor
    later.stop(spec.job_id, 1)
    site.ended(spec)
    assert runs(site, site.attempt(spec)) == 1


@pytest.mark.covers("3:local-runner", "3:crash-start")
def test_many_starts_at_once_by_threads_and_processes(site: LocalSite) -> None:
    spec = site.spec("/bin/sh", "-c", COUNT)
    runners = [site.another() for _ in range(4)]
    code = """
import pickle, sys
from runners.local.runner import LocalRunner
directory, settings, spec = pickle.load(sys.stdin.buffer)
LocalRunner(directory, settings).start(spec, "http://127.0.0.1:9", "t")
"""
    processes_too = [
        threading.Thread(
            target=subprocess.run,
            args=([sys.executable, "-c", code],),
            kwargs={"input": pickle.dumps((site.directory, site.settings, spec)), "cwd": ROOT, "check": True},
        )
        for _ in range(2)
    ]
    threads = [threading.Thread(target=runner.start, args=(spec, URL, "t")) for runner in runners]
    for thread in (*processes_too, *threads):
        thread.start()
    for thread in (*processes_too, *threads):
        thread.join()
    assert site.ended(spec).outcome
    assert runs(site, site.attempt(spec)) == 1


@pytest.mark.covers("3:crash-start")
def test_stop_against_a_dead_supervisor(site: LocalSite) -> None:
    spec = site.start("/bin/sh", "-c", f"{COUNT}exec sleep 600")
    until(lambda: runs(site, site.attempt(spec)), "user code")
    site.kill_supervisor(spec)
    site.runner.stop(spec.job_id, 1)
    outcome = site.ended(spec).outcome
    assert outcome is not None
    assert outcome.cause is Cause.LOST


@pytest.mark.covers("3:crash-start")
def test_the_agent_of_a_killed_supervisor_ends_too(site: LocalSite) -> None:
    spec = site.start("/bin/sleep", "600")
    site.reached(spec, State.RUNNING)
    name = str(site.attempt(spec))

    def agents() -> list[int]:
        return [
            pid
            for pid in with_command_line(name)
            if b"\0follow\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    until(agents, "the agent")
    site.kill_supervisor(spec)
    site.reached(spec, State.LOST)
    assert agents() == []


@pytest.mark.covers("3:crash-delete")
def test_a_server_killed_while_it_forgets(site: LocalSite) -> None:
    spec = site.start("/bin/sh", "-c", "mkdir -p a/b/c; chmod 0 a/b")
    assert site.ended(spec).outcome
    site.attempt(spec).rename(site.directory / "trash" / "half")  # it was killed here
    assert site.seen(spec) is None
    site.another()
    assert not (site.directory / "trash" / "half").exists()


@pytest.mark.covers("3:crash-start")
def test_after_a_reboot_what_ran_is_lost(site: LocalSite) -> None:
    spec = site.start("/bin/sh", "-c", f"{COUNT}exec sleep 600")
    until(lambda: runs(site, site.attempt(spec)), "user code")
    site.kill_supervisor(spec)
    site.reached(spec, State.LOST)
    directory = str(site.attempt(spec))
    # As another boot finds it: the last word never reached the disk, the pids are others' now.
    me = processes.identify(os.getpid())
    site_files.write(
        directory, site_files.STARTED, json.dumps({"boot": "other", "leaders": [me]}), durable=True
    )
    Path(directory, site_files.STATE).unlink()
    assert end_leftovers(Path(directory))
    assert site.ended(spec).state is State.LOST
    # And within this boot a pid that another process has now is left alone.
    other = {"boot": processes.boot_id(), "leaders": [[me[0], me[1] - 1]]}
    site_files.write(directory, site_files.STARTED, json.dumps(other), durable=True)
    assert end_leftovers(Path(directory))
    assert processes.lives(me)
