"""Jobs of a running `up` whose supervisor dies, that are aborted, or that read files of the machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.up_jobs import UpJobs
from tests.up_process import children, command_line, running_up
from tests.waiting import until

GROWING = b"""
import time
for number in range(20):
    open(f"table-{number:02d}.csv", "w").write("1,2,3\\n" * 100)
for number in range(10**6):
    print("line", number, flush=True)
    time.sleep(0.02)
"""
TWICE = b"""
import os, time
print("attempt", os.environ["UWS_ATTEMPT"], flush=True)
while os.environ["UWS_ATTEMPT"] == "1":
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs may have files from."""
    directory = tmp_path_factory.mktemp("survey")
    (directory / "table.csv").write_text("1,2,3\n")
    (directory / "link").symlink_to("/etc/passwd")
    return directory


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[UpJobs]:
    data = tmp_path_factory.mktemp("up") / "data"
    # All of the machine's temporary directories, so that the data directory is among them.
    environment = {
        "UWS_SITES__LOCAL__FILE_INPUTS": f"[{disk}, {data}]",
        "UWS_SITES__LOCAL__RELIST_SECONDS": "1",
        "UWS_SITES__LOCAL__LOST_AFTER": "4",
        "UWS_JOBS__CLAIM_SECONDS": "3",
    }
    with running_up(data, environment=environment) as up:
        yield UpJobs(up)


def supervisor(jobs: UpJobs, job: str) -> int:
    """The process that holds the job's attempt."""
    name = job.rpartition("/")[2]
    starter = jobs.up.roles()["start"]
    (pid,) = [pid for pid in children(starter) if name in command_line(pid)]
    return pid


@pytest.mark.covers("3:local-supervisor", "3:crash-start")
def test_a_killed_supervisor_costs_one_attempt_and_job_info_says_so(jobs: UpJobs) -> None:
    job = jobs.submit("script", TWICE)
    jobs.reach(job, "EXECUTING")
    until(lambda: jobs.result(job, "stdout") == b"attempt 1\n", "the first line")
    starter = jobs.up.roles()["start"]
    victim = supervisor(jobs, job)
    os.kill(starter, signal.SIGSTOP)  # what is between the attempts stays to be seen
    try:
        os.kill(victim, signal.SIGKILL)
        until(lambda: jobs.look(job)["attempt"] == 2, "the end of attempt 1")
        between = jobs.look(job)
        assert between["phase"] == "EXECUTING"
        assert between["reason"] == (
            "attempt 1 was lost (The job was broken off: its supervisor process ended.); attempt 2 follows"
        )
        assert "attempt 1 was lost" in jobs.ask(job).text
        until(lambda: between["reason"] in jobs.up.said(), "the log's word of it")
    finally:
        os.kill(starter, signal.SIGCONT)
    found = jobs.reach(job, "COMPLETED")
    assert found["attempt"] == 2
    assert found["errorSummary"] is None
    assert jobs.result(job, "stdout") == b"attempt 2\n"
    jobs.gone(job)


@pytest.mark.covers("3:lost-attempt")
def test_an_attempt_whose_directory_is_removed_is_made_again(jobs: UpJobs, tmp_path: Path) -> None:
    job = jobs.submit("script", TWICE)
    jobs.reach(job, "EXECUTING")
    until(lambda: jobs.result(job, "stdout") == b"attempt 1\n", "the first line")
    name = job.rpartition("/")[2]
    victim = supervisor(jobs, job)
    (jobs.up.data / "sites" / "local" / "attempts" / f"{name}.1").rename(tmp_path / "lost")
    os.kill(victim, signal.SIGKILL)
    found = jobs.reach(job, "COMPLETED")
    assert found["attempt"] == 2
    assert found["reason"] == "the code may have run twice: nobody saw attempt 1 end"
    assert jobs.result(job, "stdout") == b"attempt 2\n"


@pytest.mark.covers("3:local-abort-tree", "3:agent-logs", "3:agent-outputs", "UWS-15")
def test_an_abort_keeps_the_log_and_all_results(jobs: UpJobs) -> None:
    job = jobs.submit("script", GROWING)
    jobs.reach(job, "EXECUTING")
    until(lambda: jobs.result(job, "stdout").count(b"line") > 5, "a growing log")
    assert jobs.ask(f"{job}/phase", b"PHASE=ABORT").status == 200
    assert jobs.look(job)["phase"] == "ABORTED"  # at once; the end follows
    found = jobs.reach(job, "ABORTED")
    sizes = {result["id"]: result["size"] for result in found["results"]}
    assert set(sizes) == {
        *(f"result.table-{number:02d}.csv" for number in range(20)),
        *("stdout", "stderr", "manifest"),
    }
    assert jobs.result(job, "result.table-19.csv") == b"1,2,3\n" * 100
    log = jobs.result(job, "stdout").split()[1::2]
    assert log == [b"%d" % number for number in range(len(log))]
    jobs.gone(job)


@pytest.mark.covers("3:agent-stage-in")
def test_files_of_the_machine_where_the_site_permits_it(jobs: UpJobs, disk: Path) -> None:
    code = b"import os; print(open(os.environ['UWS_INPUTS'] + '/input/table.csv').read())"
    job = jobs.submit("script", code, input=f"file://{disk}/table.csv")
    found = jobs.reach(job, "COMPLETED", "ERROR")
    assert found["phase"] == "COMPLETED", found["errorSummary"]
    assert jobs.result(job, "stdout").strip() == b"1,2,3"


@pytest.mark.covers("3:agent-stage-in", "3:bad-path")
def test_files_of_the_machine_that_are_not_for_jobs(jobs: UpJobs, disk: Path) -> None:
    """Not through a link, nor the server's own even where a directory above is permitted."""
    for path in (f"{disk}/link", f"{disk}/../secret", f"{jobs.up.data}/secret", "/etc/passwd"):
        job = jobs.submit("script", b"print('started')", input=f"file://{path}")
        found = jobs.reach(job, "ERROR")
        assert "this site takes files from" in found["errorSummary"]["message"]
        assert found["startTime"] is None
        jobs.gone(job)
