"""Jobs that mean harm, through the whole system: what the scientist reads, what is kept, what is left."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from string import ascii_letters, digits

import pytest
from flask import Flask, Response

from runners.local import cgroups
from tests.integration.agent_door import serving
from tests.local_site import modes
from tests.up_jobs import UpJobs, notebook
from tests.up_process import running_up
from tests.waiting import until

pytestmark = pytest.mark.serial

ROOM = {"UWS_SITES__LOCAL__CPU": "8", "UWS_SITES__LOCAL__JOBS": "8"}
TICKING = b"import time\nwhile True:\n    print('tick', flush=True)\n    time.sleep(0.2)\n"
LONG = pytest.mark.long
# In steps, as one look at the disk must come between.
WRITES = "with open('big.bin', 'wb') as file:\n    for _ in range({}): file.write(bytes(2**20))"
ENDLESS = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.1)"
FORKS = "import os\nprint('forking', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
EATS = "kept = []\nwhile True: kept.append(bytearray(b'x' * 2**24))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpJobs]:
    """One `up` for all, with room for more jobs than there are processors."""
    with running_up(tmp_path_factory.mktemp("hostile") / "data", environment=ROOM) as up:
        yield UpJobs(up)


@pytest.fixture(scope="module")
def bystander(server: UpJobs) -> Iterator[str]:
    """Somebody else's job, which runs all the time; in the end it is as it should be."""
    job = server.submit("script", TICKING)
    server.reach(job, "EXECUTING")
    yield job
    assert server.look(job)["attempt"] == 1
    assert server.ask(f"{job}/phase", b"PHASE=ABORT").status == 200
    assert server.reach(job, "ABORTED")["errorSummary"] is None
    assert server.result(job, "stdout").count(b"tick\n") > 10
    assert server.result(job, "stderr") == b""
    server.gone(job)


@pytest.fixture
def jobs(server: UpJobs, bystander: str) -> Iterator[UpJobs]:
    """The server, which is in order before and after."""
    said = len(server.up.said())
    yield server
    until(server.up.healthy, "health")
    assert server.look(bystander)["phase"] == "EXECUTING"
    assert "Traceback" not in server.up.said()[said:]


@contextmanager
def address(content: bytes) -> Iterator[str]:
    """Where a web server has this content."""
    app = Flask("archive")
    app.get("/<path:_>")(lambda _: Response(content))
    with serving(app) as port:
        yield f"http://127.0.0.1:{port}/n.ipynb"


def failed(jobs: UpJobs, job: str, words: str, seconds: float = 60) -> None:
    """The job's end is an ERROR of its own fault, told in one sentence, in `/error` too; nothing is left."""
    found = jobs.reach(job, "ERROR", seconds=seconds)
    assert words in found["errorSummary"]["message"]
    assert "\n" not in found["errorSummary"]["message"]
    assert found["errorSummary"]["type"] == "fatal"
    assert found["attempt"] == 1
    assert words in jobs.ask(f"{job}/error").text
    jobs.gone(job)


@pytest.mark.covers("3:bad-not-a-notebook", "3:bad-plain-sentence")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b'{"nbformat": 3, "worksheets": []}', "format 3"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_no_notebook(jobs: UpJobs, content: bytes, words: str) -> None:
    before = jobs.ask("/notebook/async").body
    refused = jobs.post("notebook", content)
    assert refused.status == 400
    assert words in refused.text
    assert refused.text.count("\n") <= 1
    assert jobs.ask("/notebook/async").body == before
    with address(content) as url:  # the server fetches nothing: this shows when the job runs
        failed(jobs, jobs.submit("notebook", notebook=url), words)


@pytest.mark.covers("3:bad-kernel-missing", "3:notebook-kept")
def test_a_missing_kernel(jobs: UpJobs) -> None:
    julia = {"kernelspec": {"name": "julia-1.9", "language": "julia", "display_name": "Julia"}}
    job = jobs.submit("notebook", notebook("x = 1", metadata=julia))
    failed(jobs, job, "'julia-1.9'")
    assert jobs.states(job) == ["pending"]


@pytest.mark.covers("3:bad-endless", "3:notebook-cell-states", "3:notebook-kept", "UWS-15")
def test_a_notebook_that_never_ends(jobs: UpJobs) -> None:
    job = jobs.submit("notebook", notebook("x = 1", ENDLESS, "y = 2"), EXECUTIONDURATION="8")
    found = jobs.reach(job, "ABORTED")
    assert found["errorSummary"] is None
    assert found["reason"] == "ran longer than its execution duration of 8 s"
    assert jobs.states(job) == ["completed", "interrupted", "pending"]
    assert b"started" in jobs.result(job, "notebook")
    assert b"<html" in jobs.result(job, "html")
    assert jobs.ask(f"{job}/results/manifest").status == 200
    jobs.gone(job)


@pytest.mark.covers("3:bad-prints")
@pytest.mark.parametrize("megabytes", [300, pytest.param(1000, marks=LONG)])
def test_a_notebook_that_prints(jobs: UpJobs, megabytes: int) -> None:
    prints = f"line = 'x' * 9_999\nfor _ in range({megabytes * 100}): print(line)"
    job = jobs.submit("notebook", notebook(prints, "print('after')"))
    found = jobs.reach(job, "COMPLETED", "ERROR", "ABORTED", seconds=60 + megabytes / 5)
    assert found["phase"] == "COMPLETED", found["errorSummary"]
    assert jobs.states(job) == ["completed", "completed"]
    sizes = {result["id"]: result["size"] for result in found["results"]}
    assert sizes["notebook"] < 3 * 1024**2
    assert sizes["html"] < 6 * 1024**2
    assert sizes["stdout"] <= 65 * 1024**2
    jobs.gone(job)


@pytest.mark.covers("3:bad-prints", "3:local-streams")
def test_a_script_that_prints(jobs: UpJobs) -> None:
    code = b"import sys\nfor _ in range(400): sys.stdout.write('y' * 999_999 + '\\n')\nprint('the end')"
    job = jobs.submit("script", code)
    jobs.reach(job, "COMPLETED")
    log = jobs.result(job, "stdout")
    assert len(log) <= 65 * 1024**2
    assert log.startswith(b"yyy")
    assert log.endswith(b"y\nthe end\n")
    assert b"bytes of output left out ..." in log
    jobs.gone(job)


@pytest.mark.covers("3:bad-writes", "3:notebook-kept")
@pytest.mark.parametrize(
    ("limit", "words", "megabytes"),
    [("64MiB", "64 MiB", 1000), pytest.param("1GiB", "1 GiB", 10_000, marks=LONG)],
)
def test_a_notebook_that_writes(jobs: UpJobs, limit: str, words: str, megabytes: int) -> None:
    job = jobs.submit("notebook", notebook("x = 1", WRITES.format(megabytes)), DISK=limit)
    failed(jobs, job, f"wrote more to disk than its limit of {words}", 300)
    assert jobs.states(job)[0] == "completed"
    assert jobs.states(job)[1] in {"failed", "interrupted"}


@pytest.mark.covers("3:bad-kills-kernel", "3:notebook-cell-states", "3:notebook-kept")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os; os._exit(5)", "ended with exit code 5 while cell 2"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL while cell 2"),
    ],
)
def test_a_notebook_that_kills_its_kernel(jobs: UpJobs, source: str, words: str) -> None:
    job = jobs.submit("notebook", notebook("x = 1", source, "y = 2"))
    failed(jobs, job, words)
    assert jobs.states(job) == ["completed", "failed", "pending"]
    assert words in str(jobs.executed(job)["cells"])


@pytest.mark.covers("3:bad-kills-kernel", "3:local-limits", "3:notebook-kept")
def test_a_notebook_that_needs_too_much_memory(jobs: UpJobs) -> None:
    job = jobs.submit("notebook", notebook("x = 1", EATS, "y = 2"), MEMORY="400MiB")
    failed(jobs, job, "needed more memory than its limit of 400 MiB")
    assert jobs.states(job)[0] == "completed"
    assert jobs.states(job)[1] in {"failed", "running"}


@pytest.mark.covers("3:bad-fork-bomb", "3:local-limits")
@pytest.mark.parametrize("service", ["notebook", "script"])
def test_a_fork_bomb(jobs: UpJobs, service: str) -> None:
    if "a fork bomb stops the machine" in json.dumps(jobs.up.ready["isolation"]):
        assert (os.getuid(), modes()[0], cgroups.hierarchies()) == (0, "none", {})  # nobody limits root there
        return
    code = notebook("x = 1", FORKS) if service == "notebook" else FORKS.encode()
    job = jobs.submit(service, code, EXECUTIONDURATION="8" if service == "notebook" else "4")
    jobs.reach(job, "EXECUTING")
    slowest = 0.0
    while jobs.look(job)["phase"] == "EXECUTING":
        began = time.monotonic()
        assert jobs.ask("/healthz").status == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 30
    found = jobs.reach(job, "ABORTED", "ERROR")
    assert found["attempt"] == 1
    if service == "notebook":
        assert jobs.states(job) == ["completed", "interrupted"]
    assert b"forking" in jobs.result(job, "stdout")
    jobs.gone(job)


PLAIN = {*ascii_letters, *digits, *"._-"}
PATHS = ("..%2f..%2fsecret", "../../../secret", "%2e%2e/%2e%2e/secret", "/etc/passwd", "%00", "x%0ay")
HOSTILE_OUTPUTS = rb"""
import os
os.symlink("/etc/passwd", "link.txt")
os.symlink("/etc", "directory")
os.symlink(os.environ["UWS_PARAMETERS"], "parameters.txt")
os.mkfifo("pipe.txt")
import socket
socket.socket(socket.AF_UNIX).bind("socket.txt")
open("fine.txt", "w").write("fine")
os.mkdir("..." ); open(".../dots.txt", "w").write("dots")
os.mkdir("closed"); open("closed/in.txt", "w").write("in"); os.chmod("closed", 0)
for name in ("stdout", "manifest", "stderr"):
    open(name, "w").write("not the log")
for name in ("x..%2f..%2fescape", ".hidden", "back\\slash", "a b&c<d>", "q?x=1#f", "new\nline", "bell\x07",
             "\u202eright", ";rm -rf", "--help", "%00"):
    open(name, "w").write(name)
open(b"\xff\xfe", "w").write("no utf-8")
deep = "d/" * 40
os.makedirs(deep); open(deep + "deep.txt", "w").write("deep")
print("done")
"""


@pytest.mark.covers("3:bad-path", "3:agent-hostile-outputs")
def test_hostile_outputs(jobs: UpJobs) -> None:
    job = jobs.submit("script", HOSTILE_OUTPUTS)
    found = jobs.reach(job, "COMPLETED", "ERROR")
    assert found["phase"] == "COMPLETED", found["errorSummary"]
    manifest = jobs.ask(f"{job}/results/manifest").text
    contents = {}
    for result in found["results"]:
        if result["id"] not in {"stdout", "stderr", "manifest"}:
            assert set(result["id"]) <= set(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
            )
            answer = jobs.ask(result["href"])
            assert (answer.status, len(answer.body)) == (200, result["size"])
            contents[result["id"]] = answer.text
    assert contents["result.fine.txt"] == "fine"
    assert jobs.result(job, "stdout") == b"done\n"  # not the file of this name
    assert "not the log" in contents.values()
    assert "x..%2f..%2fescape" in contents.values()
    assert not {".hidden", "dots"} & {*contents.values()}  # as in a shell
    assert not any("root:" in text for text in contents.values())
    for passed_over in ("link", "directory", "parameters", "pipe", "socket", "deep", "line", "bell"):
        assert not any(passed_over in name for name in contents), passed_over
        assert passed_over in manifest  # and said so
    for path in (
        "..%2f..%2fsecret",
        "../../../secret",
        "%2e%2e/%2e%2e/secret",
        "/etc/passwd",
        "%00",
        "x%0ay",
    ):
        assert jobs.ask(f"{job}/results/{path}").status in {400, 404}
    jobs.gone(job)


@pytest.mark.covers("3:agent-hostile-outputs", "3:agent-outputs")
def test_more_outputs_than_a_job_may_have(jobs: UpJobs) -> None:
    code = b"for n in range(5000): open(f'f{n:04d}.txt', 'w').write(str(n))"
    job = jobs.submit("script", code)
    failed(jobs, job, "The job made more than the 1000 output files it may have")
    kept = [one["id"] for one in jobs.look(job)["results"] if one["id"].startswith("result.")]
    assert kept == [f"result.f{number:04d}.txt" for number in range(1000)]


@pytest.mark.covers("3:bad-plain-sentence", "3:local-limits")
def test_all_at_once(jobs: UpJobs) -> None:
    """Several of them beside each other, and one that means well."""
    submitted: list[str] = []
    wishes = [
        ("notebook", notebook(EATS), {"MEMORY": "300MiB"}),
        ("script", WRITES.format(1000).encode(), {"DISK": "32MiB"}),
        ("script", ENDLESS.encode(), {"EXECUTIONDURATION": "4"}),
        ("script", b"print('good')", {}),
    ]
    threads = [
        threading.Thread(target=lambda w=wish: submitted.append(jobs.submit(w[0], w[1], **w[2])))
        for wish in wishes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    phases = sorted(jobs.reach(job, "COMPLETED", "ERROR", "ABORTED")["phase"] for job in submitted)
    assert phases == ["ABORTED", "COMPLETED", "ERROR", "ERROR"]
    for job in submitted:
        jobs.gone(job)
