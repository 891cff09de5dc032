"""How user code ends, by itself or by force, and what the user is told of it."""

from __future__ import annotations

import pytest

from tests.kubernetes.site import OWN, Site
from tests.waiting import until

# awk takes memory as fast as it doubles a text.
EATER = "awk 'BEGIN { x = \"x\"; while (1) x = x x }' </dev/null"
EATEN = {
    "type": "fatal",
    "message": "The job needed more memory than its limit of 64 MiB.",
    "hasDetail": False,
}


@pytest.mark.covers("4:fault-exit")
def test_a_program_that_fails_keeps_its_log_and_results(site: Site) -> None:
    job = site.shell("echo half > $UWS_OUTPUTS/half.txt; echo out; echo no star here >&2; exit 3")
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"] == {
        "type": "fatal",
        "message": "The program ended with exit code 3. It said last: no star here",
        "hasDetail": True,
    }
    assert {result["id"] for result in seen["results"]} == {"result", *OWN}
    assert site.result(job, "result") == b"half\n"
    assert site.result(job, "stdout") == b"out\n"
    assert site.result(job, "stderr") == b"no star here\n"
    site.clear(job)


@pytest.mark.covers("4:fault-exit")
@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "The program was ended by signal SIGSEGV (segmentation fault"),
        ("kill -KILL $$", "The program was ended by signal SIGKILL (killed)."),
        ("no-such-program", "The program ended with exit code 127: a command was not found."),
        ("exit 67", "The program ended with exit code 67."),
        ("exit 125", "The program ended with exit code 125."),
    ],
)
def test_every_way_to_fail_is_said(site: Site, script: str, message: str) -> None:
    job = site.shell(script)
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"].startswith(message)
    site.clear(job)


@pytest.mark.covers("4:fault-oom")
def test_memory_beyond_the_limit_fails_the_job_and_names_the_limit(site: Site) -> None:
    job = site.shell(f"echo half > $UWS_OUTPUTS/half.txt; echo begun; exec {EATER}")
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"] == EATEN["message"]
    assert site.result(job, "result") == b"half\n"
    assert site.result(job, "stdout") == b"begun\n"
    site.clear(job)


@pytest.mark.covers("4:fault-oom")
@pytest.mark.long
@pytest.mark.parametrize(
    "script",
    [f"{EATER}; exit 7", f"sh -c '{EATER.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}; true'; exit 0"],
    ids=["child", "grandchild, survived with exit code 0"],
)
def test_a_child_that_is_killed_for_memory_fails_the_job(site: Site, script: str) -> None:
    job = site.shell(f"echo half > $UWS_OUTPUTS/half.txt\n{script}")
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"] == EATEN["message"]
    assert site.result(job, "result") == b"half\n"
    site.clear(job)


@pytest.mark.covers("4:fault-duration")
def test_a_job_that_runs_too_long_is_aborted_and_keeps_what_it_has(site: Site) -> None:
    job = site.shell(
        "echo half > $UWS_OUTPUTS/half.txt; echo begun; trap 'echo asked; exit 0' TERM; sleep 60 & wait",
        EXECUTIONDURATION=2,
    )
    seen = site.ended(job, "ABORTED")
    assert seen["errorSummary"] is None
    assert seen["reason"] == "ran longer than its execution duration of 2 s"
    assert site.result(job, "result") == b"half\n"
    assert site.result(job, "stdout") == b"begun\nasked\n"
    site.clear(job)


@pytest.mark.covers("4:fault-deaf")
def test_a_program_that_ignores_sigterm_is_killed_and_its_results_kept(site: Site) -> None:
    job = site.shell("trap '' TERM; echo half > $UWS_OUTPUTS/half.txt; while :; do sleep 1; done")
    site.reach(job, "EXECUTING")
    site.abort(job)
    site.ended(job, "ABORTED")
    assert site.result(job, "result") == b"half\n"
    site.clear(job)


@pytest.mark.covers("4:fault-deaf")
@pytest.mark.long
def test_what_is_written_while_shutting_down_is_kept(site: Site) -> None:
    job = site.shell(
        "trap 'for n in 1 2 3; do echo $n >> $UWS_OUTPUTS/late.txt; echo $n; sleep 0.3; done; exit 0' TERM\n"
        "echo begun; while :; do sleep 0.1; done"
    )
    site.reach(job, "EXECUTING")
    until(lambda: site.result(job, "stdout") == b"begun\n", "its first line")
    site.abort(job)
    site.ended(job, "ABORTED")
    assert site.result(job, "result") == b"1\n2\n3\n"
    assert site.result(job, "stdout") == b"begun\n1\n2\n3\n"
    site.clear(job)


@pytest.mark.covers("4:fault-no-shell")
def test_an_image_with_one_static_program_and_no_shell_runs(site: Site, static_image: str) -> None:
    job = site.run(["/count", "/uws/work/outputs/count.txt"], image=static_image)
    site.ended(job, "COMPLETED")
    assert site.result(job, "result") == b"one\n"
    assert site.result(job, "stdout") == b"two\n"
    site.clear(job, starts={})


@pytest.mark.covers("4:fault-no-shell")
def test_a_program_that_the_image_has_not_fails_the_job_and_is_named(site: Site) -> None:
    job = site.run(["/nowhere/at-all"])
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert (
        "The program /nowhere/at-all could not be started: No such file or directory."
        in (seen["errorSummary"]["message"])
    )
    site.clear(job, starts={})
