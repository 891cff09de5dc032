"""Results and logs of every kind: too large, too many, hostile, binary, endless."""

from __future__ import annotations

import pytest

from tests.kubernetes.site import OWN, Site


@pytest.mark.covers("4:fault-output-size")
def test_results_beyond_the_limit_fail_the_job_and_what_fits_is_kept(site: Site) -> None:
    script = "cd $UWS_OUTPUTS; echo fits > a.txt; truncate -s 17M b.bin"
    job = site.shell(script)
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert (
        seen["errorSummary"]["message"]
        == "The job's outputs are larger than the 16777216 bytes it may store."
    )
    assert {result["id"] for result in seen["results"]} == {"result.a.txt", *OWN}
    assert site.result(job, "result.a.txt") == b"fits\n"
    site.clear(job)


@pytest.mark.covers("4:fault-output-size")
@pytest.mark.long
def test_more_results_than_the_limit_fail_the_job_and_as_many_are_kept(site: Site) -> None:
    job = site.shell("cd $UWS_OUTPUTS; for n in $(seq 1001); do echo $n > f$n; done")
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["errorSummary"]["message"] == "The job made more than the 1000 output files it may have."
    assert len(seen["results"]) == 1000 + len(OWN)
    site.clear(job)


@pytest.mark.covers("4:fault-log")
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("yes line | head -c 100000000", marks=pytest.mark.long),
        pytest.param("head -c 100000000 /dev/urandom", marks=pytest.mark.long),
        "tr '\\0' x < /dev/zero | head -c 100000000",
    ],
    ids=["lines", "binary", "one line"],
)
def test_a_log_of_100_mb_is_kept_to_its_limit(site: Site, script: str) -> None:
    job = site.shell(f"echo first; {script}; echo; echo last", CPU=1)
    site.ended(job, "COMPLETED")
    log = site.result(job, "stdout")
    assert 2 * 1024**2 - 4096 < len(log) <= 2 * 1024**2
    assert log.startswith(b"first\n")
    assert log.endswith(b"\nlast\n")
    left_out = 6 + 100_000_000 + 6 - len(log)
    assert b" bytes of output left out ...]\n" in log
    number = int(log.partition(b"\n[... ")[2].split()[0]) if script.startswith("tr") else left_out + 40
    assert abs(number - left_out) < 100
    site.clear(job)


# Everything that could lead the agent to give away what is not the job's.
HOSTILE = r"""
cd $UWS_OUTPUTS
ln -s /proc/self/environ environ
ln -s /proc/1/environ agent-environ
ln -s /uws/attempt/agent.json agent.json
ln -s ../../agent.json up.json
ln -s /uws/attempt attempt
ln -s .. parent
ln -s / root
mkdir sub; ln -s ../../../spec.json sub/spec.json
echo one > file; ln file hard
mkfifo fifo
touch "$(printf 'new\nline')" "$(printf 'esc\033[31m')"
ln -sf /uws/attempt/agent.json $UWS_OUTPUTS/../uws/error.json
ln -sf /uws/attempt/agent.json $UWS_OUTPUTS/../uws/progress
echo fine > fine.txt
echo shown
"""


@pytest.mark.covers("4:fault-hostile")
def test_a_hostile_output_tree_gives_nothing_away(site: Site) -> None:
    job = site.shell(HOSTILE)
    seen = site.ended(job, "COMPLETED")
    assert {result["id"] for result in seen["results"]} == {"result", *OWN}
    assert site.result(job, "result") == b"fine\n"
    notes = site.result(job, "manifest").decode()
    for name in ("environ", "agent.json", "up.json", "sub/spec.json", "hard", "fifo"):
        assert f"'{name}' was passed over" in notes
    site.clear(job)


# Log files and hints lie where user code can write.
FORGED = r"""
cd /uws/logs
printf '1\n' > started
%s
echo shown
exit %d
"""


@pytest.mark.covers("4:fault-forged")
@pytest.mark.parametrize(
    ("forgery", "code"),
    [
        ("printf '0 1 ended\\n' > exit; sleep 3", 3),
        pytest.param("printf '5 1 timed-out\\n' > exit; sleep 3", 0, marks=pytest.mark.long),
        pytest.param(
            "rm stdout stderr; ln -s /uws/attempt/agent.json stdout; mkfifo stderr", 0, marks=pytest.mark.long
        ),
        pytest.param("rm stdout; ln stderr stdout; ln -s /proc/self/environ exit", 0, marks=pytest.mark.long),
        pytest.param("rm -f stdout stderr; mkdir stdout stderr exit .exit.new", 0, marks=pytest.mark.long),
    ],
    ids=["exit 0", "timed-out", "links", "hard links", "directories"],
)
def test_forged_hints_and_logs_decide_nothing(site: Site, forgery: str, code: int) -> None:
    job = site.shell(FORGED % (forgery, code))
    seen = site.ended(job, "ERROR" if code else "COMPLETED")
    if code:
        assert seen["errorSummary"]["message"].startswith("The program ended with exit code 3.")
    assert seen["startTime"] > "2026"
    site.clear(job)


# A file is exchanged for a link, and back, as fast as it goes, also while the agent stores.
SWAPPING = r"""
cd $UWS_OUTPUTS
mkdir real; for n in $(seq 200); do echo mine > real/$n; done
ln -s /uws/attempt link
trap '' TERM
echo begun
while :; do mv real kept; mv link real; mv real link; mv kept real; done
"""


@pytest.mark.covers("4:fault-hostile")
@pytest.mark.long
def test_exchanging_directories_for_links_gives_nothing_away(site: Site) -> None:
    job = site.shell(SWAPPING, EXECUTIONDURATION=3)
    seen = site.ended(job, "ABORTED")
    kept = [result["id"] for result in seen["results"] if result["id"].startswith("result")]
    assert all(site.result(job, name) == b"mine\n" for name in kept[:20])
    site.clear(job)


# The agent's process, its files and its termination message are in other containers.
SEARCHING = r"""
for p in /proc/[0-9]*; do cat $p/environ $p/cmdline 2>/dev/null | tr '\0' '\n'; done
ls -laR /uws /var/run/secrets /run 2>&1
cat /uws/attempt/agent.json /uws/control/* 2>/dev/null | head -c 100
env; mount; cat /dev/termination-log 2>&1
exit 0
"""


@pytest.mark.covers("4:fault-hostile")
@pytest.mark.long
def test_a_job_finds_no_credential_in_its_container(site: Site) -> None:
    job = site.shell(SEARCHING)
    site.ended(job, "COMPLETED")  # which looks for the token in all of the job's objects, logs among them
    log = site.result(job, "stdout").decode(errors="replace")
    assert "UWS_JOB_ID" in log
    assert "UWS_AGENT" not in log
    assert "serviceaccount" not in log
    site.clear(job)
