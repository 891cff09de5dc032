"""The agent's `follow`, as a real process against a real door."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flask import Response

from runners.agent.attempt_dir import AttemptDir, Exit
from runners.local.capped_log import CappedLog
from tests.integration.agent_door import JOB, OURS, Attempt, DoorDouble, ended, kill, serving
from tests.waiting import PATIENCE, until
from uws_server.domain.runspec import AttemptLimits, Output
from uws_server.domain.wire import FENCED, STAGE_OUT_FAILED

MIB = 1024 * 1024


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.covers("3:agent-outputs", "3:agent-logs")
def test_logs_results_manifest(door: DoorDouble, port: int, tmp_path: Path) -> None:
    outputs = [Output("table", "*.csv"), Output("plot", "plots/*.png", "image/png"), Output("rest", "**")]
    attempt = Attempt(tmp_path / "a", port, outputs=outputs)
    (attempt.logs / "stdout").write_bytes(b"hello\n")
    (attempt.logs / "stderr").write_bytes(b"")
    (attempt.top / "stage-in.json").write_text(
        json.dumps({"ok": True, "inputs": [{"path": "x", "source": "upload:x", "size": 1, "sha256": "0"}]})
    )
    files = {
        "t.csv": b"a,b\n",
        "plots/one.png": b"1",
        "plots/two.png": b"22",
        "deep/er/x y.fits": b"",
        "n": b"n",
    }
    for name, content in files.items():
        path = attempt.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    attempt.end()
    assert attempt.run("follow") == 0
    manifest = door.manifests[0]
    results = {result["id"]: result for result in manifest.pop("results")}
    assert manifest == {
        "version": 1,
        "job": JOB,
        "attempt": 1,
        "inputs": [{"path": "x", "source": "upload:x", "size": 1, "sha256": "0"}],
        "logs": {"stdout": 6, "stderr": 0},
        "checksums": {"stdout": sha256(b"hello\n"), "stderr": sha256(b"")},
        "error": None,
        "notes": [],
    }
    assert {name: (one["name"], one["media_type"]) for name, one in results.items()} == {
        "table": ("results/t.csv", "text/csv"),
        "plot.plots.one.png": ("results/plots/one.png", "image/png"),
        "plot.plots.two.png": ("results/plots/two.png", "image/png"),
        "rest.deep.er.x_y.fits": ("results/deep/er/x y.fits", "application/fits"),
        "rest.n": ("results/n", "application/octet-stream"),
    }
    for result in results.values():
        content = door.stored(result["name"])
        assert content == files[result["name"].removeprefix("results/")]
        assert (result["size"], result["sha256"]) == (len(content), sha256(content))
    assert door.log("stdout") == b"hello\n"
    assert attempt.said("stage-out") == {"ok": True, "message": "", "detail": "", "transient": False}


@pytest.mark.covers("3:agent-logs", "3:agent-progress", "3:results-logs")
def test_logs_and_progress_while_running(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    agent = attempt.start("follow")
    with (attempt.logs / "stdout").open("ab", buffering=0) as stdout:
        written = b""
        for number in range(3):
            line = f"line {number}\n".encode()
            stdout.write(line)
            written += line
            with (attempt.uws / "progress").open("a") as progress:
                progress.write(f"{number} 3\n{number + 1} ")
                progress.flush()
                until(lambda: door.log("stdout") == written, "all that was written")  # noqa: B023 - used at once
                until(lambda: (number, 3) in door.progress, f"progress {number}")  # noqa: B023 - used at once
                progress.write("4\n")
    attempt.end(1)
    assert ended(agent) == 0
    assert door.manifests[0]["logs"] == {"stdout": len(written), "stderr": 0}
    assert door.progress == [(0, 3), (1, 3), (2, 3), (3, 4)] or door.progress[-1] == (3, 4)
    assert len(set(door.progress)) == len(door.progress)  # only when it changes
    assert len(door.names("logs/stdout")) == 3


@pytest.mark.parametrize(
    "text", [b"x\n", b"1\n", b"2 1\n", b"-1 5\n", b"1 2", b"\xff\xff 3\n", b"1 2 3\n", b"9" * 5000]
)
def test_senseless_progress_is_not_reported(door: DoorDouble, port: int, tmp_path: Path, text: bytes) -> None:
    attempt = Attempt(tmp_path / "a", port)
    (attempt.uws / "progress").write_bytes(text)
    attempt.end()
    assert attempt.run("follow") == 0
    assert door.progress == []


def test_a_log_longer_than_a_segment(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    content = os.urandom(9 * MIB + 5)
    (attempt.logs / "stderr").write_bytes(content)
    attempt.end()
    assert attempt.run("follow") == 0
    assert door.log("stderr") == content
    assert max(size for _, size in door.puts) <= 4 * MIB


@pytest.mark.covers("3:agent-logs", "3:bad-prints")
def test_a_log_that_is_capped_while_it_is_followed(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """The head as it comes, and what the supervisor adds at the end: the mark and the tail."""
    attempt = Attempt(tmp_path / "a", port)
    log = CappedLog(str(attempt.logs / "stdout"), 1_000_000)
    agent = attempt.start("follow")
    for number in range(300):
        log.write(b"%09d\n" % number * 1000)
        if number in {10, 100}:
            head = (attempt.logs / "stdout").read_bytes()
            until(lambda: door.log("stdout") == head, "the head of the log")  # noqa: B023 - used at once
    log.close()
    attempt.end()
    assert ended(agent) == 0
    whole = (attempt.logs / "stdout").read_bytes()
    assert door.manifests[0]["checksums"]["stdout"] == sha256(whole)
    assert door.log("stdout") == whole
    assert len(whole) <= 1_000_000
    assert b"bytes of output left out" in whole
    assert whole.endswith(b"000000299\n")
    assert door.manifests[0]["logs"]["stdout"] == len(whole)


@pytest.mark.covers("3:agent-hostile-outputs", "3:bad-path")
def test_a_hostile_tree(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    out = attempt.outputs
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "one").write_text("secret")
    (out / "good").write_text("good")
    (out / "passwd").symlink_to("/etc/passwd")
    (out / "token").symlink_to("../../agent.json")
    (out / "up").symlink_to("..")
    (out / "away").symlink_to(tmp_path / "secrets")
    (out / "hard").hardlink_to(tmp_path / "secret")
    os.mkfifo(out / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(out / "socket"))
    if os.getuid() == 0:
        os.mknod(out / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    (out / "new\nline").write_text("x")
    (out / "es\x1bcape").write_text("x")
    Path(os.fsdecode(os.fsencode(out) + b"/bad\xff")).write_text("x")
    (out / ".hidden").write_text("x")
    (out / "bad\ndirectory").mkdir()
    (out / "bad\ndirectory" / "x").write_text("x")
    deep = out / Path(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "too-deep").write_text("x")
    (out / "..sly..").write_text("sly")
    (out / "d" / "%2e%2e").write_text("percent")
    attempt.end()
    assert attempt.run("follow") == 0
    stored = {result["name"] for result in door.manifests[0]["results"]}
    assert stored == {"results/good", "results/d/%2e%2e"}
    assert set(door.names("results")) == stored
    notes = attempt.said("stage-out")["detail"].splitlines()
    for name in (
        "passwd",
        "token",
        "up",
        "away",
        "hard",
        "pipe",
        "socket",
        "new\\nline",
        "bad\\udcff",
        "d/d/d/d",
    ):
        assert any(f"'{name}" in note for note in notes), (name, notes)
    assert door.manifests[0]["notes"] == notes
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.covers("3:agent-hostile-outputs")
@pytest.mark.parametrize("instead", ["link", "file", "nothing", "linked-work"])
def test_no_output_directory(door: DoorDouble, port: int, tmp_path: Path, instead: str) -> None:
    attempt = Attempt(tmp_path / "a", port, outputs=[Output("result", "**", required=True)])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("secret")
    attempt.outputs.rmdir()
    if instead == "link":
        attempt.outputs.symlink_to(tmp_path / "elsewhere")
    elif instead == "file":
        attempt.outputs.write_text("x")
    elif instead == "linked-work":
        (attempt.top / "work").rename(tmp_path / "real-work")
        (attempt.top / "work").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "outputs").mkdir()
        (tmp_path / "elsewhere" / "outputs" / "x").write_text("secret")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    assert door.manifests[0]["results"] == []
    assert door.manifests[0]["error"]["message"] == "The job made no file for its output 'result' (**)."


def test_a_missing_required_output_matters_only_after_success(
    door: DoorDouble, port: int, tmp_path: Path
) -> None:
    attempt = Attempt(tmp_path / "a", port, outputs=[Output("result", "*.csv", required=True)])
    attempt.end(1)
    assert attempt.run("follow") == 0
    assert door.manifests[0]["error"] is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"message": "Cell 3 failed.", "detail": "a\\nb"}', {"message": "Cell 3 failed.", "detail": "a\nb"}),
        ('{"message": "a\\u0000b\\nc"}', {"message": "a b c", "detail": ""}),
        ('{"message": 3}', None),
        ("[" * 30000, None),
        ("null", None),
        ('{"message": "' + "x" * 70000 + '"}', None),
        ('{"message": "' + "x" * 7000 + '", "detail": 1}', {"message": "x" * 500, "detail": ""}),
    ],
)
def test_the_user_codes_own_error(
    door: DoorDouble, port: int, tmp_path: Path, text: str, wanted: dict[str, str] | None
) -> None:
    attempt = Attempt(tmp_path / "a", port)
    (attempt.uws / "error.json").write_text(text)
    attempt.end(1)
    assert attempt.run("follow") == 0
    assert door.manifests[0]["error"] == wanted


def test_hints_are_not_read_through_links(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    (tmp_path / "other").write_text('{"message": "secret"}')
    (attempt.uws / "error.json").symlink_to(tmp_path / "other")
    os.mkfifo(attempt.uws / "progress")
    attempt.end(1)
    assert attempt.run("follow") == 0
    assert door.manifests[0]["error"] is None


@pytest.mark.covers("3:agent-outputs", "3:agent-hostile-outputs")
def test_more_files_than_allowed(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """5,000 files where 50 may be: the outputs that are named first are kept."""
    outputs = [Output("notebook", "z.ipynb"), Output("rest", "**")]
    attempt = Attempt(tmp_path / "a", port, outputs=outputs, limits=AttemptLimits(output_files=50))
    for number in range(5000):
        (attempt.outputs / f"{number:05d}").write_text("x")
    (attempt.outputs / "z.ipynb").write_text("{}")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    results = door.manifests[0]["results"]
    assert len(results) == 50
    assert results[0]["id"] == "notebook"
    assert results[1]["id"] == "rest.00000"
    said = attempt.said("stage-out")
    assert said["message"] == "The job made more than the 50 output files it may have."
    assert not said["transient"]


def test_more_bytes_than_allowed(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, limits=AttemptLimits(output_bytes=1000))
    (attempt.outputs / "a").write_bytes(bytes(900))
    with (attempt.outputs / "b").open("wb") as sparse:
        sparse.truncate(10**12)
    (attempt.outputs / "c").write_bytes(bytes(100))
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    assert [result["name"] for result in door.manifests[0]["results"]] == ["results/a", "results/c"]
    assert "larger than the 1000 bytes" in door.manifests[0]["error"]["message"]


def test_a_thousand_small_files_go_quickly(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    for number in range(1000):
        (attempt.outputs / f"{number:04d}.txt").write_text(str(number))
    attempt.end()
    assert attempt.run("follow") == 0
    assert len(door.manifests[0]["results"]) == len(door.names("results")) == 1000
    assert len(door.puts) == 1000
    assert len(door.bought) == 10


@pytest.mark.covers("3:agent-memory")
def test_memory_is_bounded(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """A 300 MB result and a 60 MB log go through an agent of less than 70 MB."""
    attempt = Attempt(tmp_path / "a", port)
    with (attempt.outputs / "big.fits").open("wb") as file:
        file.truncate(300 * MIB)
    with (attempt.logs / "stdout").open("wb") as file:
        file.truncate(60 * MIB)
    attempt.end()
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    agent = [sys.executable, "-m", "runners.agent", "follow", str(attempt.top)]
    run = subprocess.run(
        [sys.executable, "-c", measure, *agent], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    code, mib = run.stdout.split()
    assert code == "0", run.stderr
    assert int(mib) < 70
    assert door.manifests[0]["checksums"]["stdout"] == sha256(bytes(60 * MIB))  # of many segments
    assert door.manifests[0]["results"][0]["size"] == 300 * MIB
    assert door.store.head(f"jobs/{JOB}/1/results/big.fits").size == 300 * MIB


# Kill and run again -------------------------------------------------------------------------------


@pytest.mark.covers("3:agent-resume")
@pytest.mark.parametrize(
    "at",
    [
        "POST /agent/v1/links",
        "PUT logs/stdout",
        "after PUT logs/stdout",
        "PUT results/010",
        "PUT results/199",
        "POST /agent/v1/manifest",
        "after POST /agent/v1/manifest",
    ],
)
def test_killed_and_run_again(door: DoorDouble, port: int, tmp_path: Path, at: str) -> None:
    attempt = Attempt(tmp_path / "a", port)
    log = b"".join(b"line %d\n" % number for number in range(1000))
    (attempt.logs / "stdout").write_bytes(log[:1000])
    for number in range(200):
        (attempt.outputs / f"{number:03d}").write_text(str(number))
    reached, release = threading.Event(), threading.Event()
    after = at.startswith("after ")

    def fault(call: str) -> Response | None:
        # "after" holds the agent at its next call, when the one named is done.
        if reached.is_set() or at.removeprefix("after ") not in call.replace(
            f"/storage/v1/jobs/{JOB}/1/", ""
        ):
            return None
        reached.set()
        if after:
            return None
        release.wait(PATIENCE)
        return Response("too late", 503)

    door.fault = fault
    attempt.end()
    agent = attempt.start("follow")
    assert reached.wait(PATIENCE)
    if after and "manifest" in at:
        until(lambda: door.manifests, "the manifest")
    elif after:
        until(lambda: door.names("logs/stdout"), "a piece of the log")
    kill(agent)
    release.set()
    door.fault = lambda _: None
    with (attempt.logs / "stdout").open("ab") as more:  # as if the log had grown in between
        more.write(log[1000:])
    assert attempt.run("follow") == 0
    assert len({json.dumps(manifest) for manifest in door.manifests}) == 1
    # What was in the manifest already cannot grow.
    assert door.log("stdout") == (log[:1000] if "manifest" in at else log)
    assert door.manifests[0]["checksums"]["stdout"] == sha256(door.log("stdout"))
    assert len(door.manifests[0]["results"]) == 200
    for result in door.manifests[0]["results"]:
        content = door.stored(result["name"])
        assert (len(content), sha256(content)) == (result["size"], result["sha256"])
    before = len(door.puts), len(door.bought), len(door.manifests)
    assert attempt.run("follow") == 0
    assert (len(door.puts), len(door.bought), len(door.manifests)) == before


@pytest.mark.covers("3:agent-resume")
def test_a_segment_never_changes(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """Killed after a segment was stored and before that was written down, the same bytes go again."""
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_bytes(b"first")
    (attempt.top / "agent-state.json").write_text(
        json.dumps({"logs": {"stdout": [0, 5], "stderr": [0, 0]}, "results": {}, "done": False})
    )
    door.store.put(f"jobs/{JOB}/1/logs/stdout/{0:015d}", b"first")
    (attempt.logs / "stdout").write_bytes(b"first and second")
    attempt.end()
    assert attempt.run("follow") == 0
    assert door.puts == [(f"logs/stdout/{0:015d}", 5), (f"logs/stdout/{5:015d}", 11)]
    assert door.log("stdout") == b"first and second"


@pytest.mark.covers("3:agent-resume")
def test_killed_again_and_again(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port)
    for number in range(300):
        (attempt.outputs / f"{number:03d}").write_bytes(b"x" * number)
    (attempt.logs / "stdout").write_bytes(b"log\n" * 1000)
    attempt.end()
    for target in (20, 120, 220):
        agent = attempt.start("follow")
        until(lambda: len(door.puts) >= target or agent.poll() is not None, f"{target} pieces")  # noqa: B023 - used at once
        kill(agent)
    assert attempt.run("follow") == 0
    assert len(door.manifests[0]["results"]) == 300
    assert door.log("stdout") == b"log\n" * 1000


# The server's answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("where", ["links", "progress", "manifest"])
def test_fenced_off(door: DoorDouble, port: int, tmp_path: Path, status: int, where: str) -> None:
    door.fault = lambda call: Response("No.\n", status, OURS) if call.endswith(where) else None
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_text("x")
    (attempt.outputs / "x").write_text("x")
    (attempt.uws / "progress").write_text("1 2\n")
    attempt.end()
    assert attempt.run("follow") == FENCED
    assert not (attempt.top / "stage-out.json").exists()
    assert door.manifests == []


@pytest.mark.covers("3:agent-resume")
@pytest.mark.parametrize("status", [302, 401, 403, 404])
@pytest.mark.parametrize("where", ["links", "progress", "manifest", "results/x"])
def test_a_proxys_word_fences_nobody_off(
    door: DoorDouble, port: int, tmp_path: Path, status: int, where: str
) -> None:
    """Such as of a proxy whose web is being started: the agent asks again until the door answers."""
    said: list[str] = []
    most = 5 if "/" in where else 3  # more than the links of a store that takes none of its own

    def fault(call: str) -> Response | None:
        if call.endswith(where) and len(said) < most:
            said.append(call)
            return Response("<h1>Not here</h1>", status)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_text("x")
    (attempt.outputs / "x").write_text("x")
    (attempt.uws / "progress").write_text("1 2\n")
    if where == "progress":
        agent = attempt.start("follow")
        until(lambda: door.progress == [(1, 2)], "progress")
        attempt.end()
        assert ended(agent) == 0
    else:
        attempt.end()
        assert attempt.run("follow") == 0
    assert len(said) == most
    assert door.log("stdout") == b"x"
    assert [result["name"] for result in door.manifests[0]["results"]] == ["results/x"]


def test_a_proxy_that_stays_in_the_way_counts_as_a_door_that_is_away(
    door: DoorDouble, port: int, tmp_path: Path
) -> None:
    door.fault = lambda call: Response("Not here.\n", 404)
    attempt = Attempt(tmp_path / "a", port, patience_seconds=0.5)
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    said = attempt.said("stage-out")
    assert "the server answered 404 for 0 s" in said["message"]
    assert said["transient"]


def test_a_wrong_token_is_said(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, token="wrong")
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    assert attempt.said("stage-out") == {
        "ok": False,
        "message": "The results could not be stored: 401: The token is not right.",
        "detail": "",
        "transient": False,
    }


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_faults_that_pass(door: DoorDouble, port: int, tmp_path: Path, status: int) -> None:
    calls: dict[str, int] = {}

    def fault(call: str) -> Response | None:
        calls[call] = calls.get(call, 0) + 1
        return Response("Later.\n", status, headers={"Retry-After": "0"}) if calls[call] <= 2 else None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_text("x")
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("follow") == 0
    assert door.stored("results/x") == b"x"
    assert len(door.manifests) == 1


def test_a_result_that_is_refused_is_said_and_the_others_kept(
    door: DoorDouble, port: int, tmp_path: Path
) -> None:
    door.fault = lambda call: Response("Too much.\n", 413) if call.endswith("results/b") else None
    attempt = Attempt(tmp_path / "a", port)
    for name in "abc":
        (attempt.outputs / name).write_text(name)
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    assert [result["name"] for result in door.manifests[0]["results"]] == ["results/a", "results/c"]
    assert "'b' could not be stored: 413" in attempt.said("stage-out")["message"]


def test_a_log_that_is_refused_does_not_cost_the_results(door: DoorDouble, port: int, tmp_path: Path) -> None:
    door.fault = lambda call: Response("Too much.\n", 413) if "logs/" in call else None
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_text("x")
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("follow") == 0
    assert door.manifests[0]["logs"] == {"stdout": 0, "stderr": 0}
    assert "log is not complete" in attempt.said("stage-out")["detail"]


def test_links_that_have_expired_are_bought_again(door: DoorDouble, port: int, tmp_path: Path) -> None:
    refused: list[str] = []

    def fault(call: str) -> Response | None:
        if "results/" in call and call not in refused:
            refused.append(call)
            return Response("This link has expired.\n", 403, OURS)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port)
    for number in range(5):
        (attempt.outputs / str(number)).write_text("x")
    attempt.end()
    assert attempt.run("follow") == 0
    assert len(refused) == len(door.manifests[0]["results"]) == 5
    assert len(door.bought) == 6


def test_the_web_restarts(door: DoorDouble, tmp_path: Path) -> None:
    """Refused connections are waited out: while following, and at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    attempt = Attempt(tmp_path / "a", port)
    (attempt.logs / "stdout").write_text("while away\n")
    (attempt.outputs / "x").write_text("x")
    agent = attempt.start("follow")
    until((attempt.top / "agent-state.json").exists, "the agent's state")
    with serving(door.app(), port):
        until(lambda: door.log("stdout") == b"while away\n", "what was written meanwhile")
    (attempt.logs / "stdout").write_text("while away\nand again\n")
    attempt.end()
    with socket.create_server(("127.0.0.1", port)) as away:  # again, at the end
        for _ in range(3):
            away.accept()[0].close()
    with serving(door.app(), port):
        assert ended(agent) == 0
    assert door.log("stdout") == b"while away\nand again\n"
    assert door.manifests[0]["results"][0]["name"] == "results/x"


def test_the_web_stays_away(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", 1, patience_seconds=1)
    (attempt.outputs / "x").write_text("x")
    attempt.end()
    assert attempt.run("follow") == STAGE_OUT_FAILED
    said = attempt.said("stage-out")
    assert said["message"] == (
        "The results could not be stored: the server could not be reached "
        "(the server does not accept connections) for 1 s."
    )
    assert said["transient"]


def test_a_disk_that_is_full_for_a_while(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """The agent cannot write down what it does, so it does nothing; then it goes on."""
    attempt = Attempt(tmp_path / "a", port)
    (attempt.top / "agent-state.json.new").mkdir()
    (attempt.logs / "stdout").write_text("log")
    (attempt.uws / "progress").write_text("1 3\n")
    agent = attempt.start("follow")
    until(lambda: door.progress, "progress")
    assert door.names("logs") == []
    (attempt.top / "agent-state.json.new").rmdir()
    until(lambda: door.log("stdout") == b"log", "the log")
    attempt.end()
    assert ended(agent) == 0


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", None),
        ("0 1700000000000\n", Exit(0, 1_700_000_000_000, "")),
        ("137 1700000000000 timed-out\n", Exit(137, 1_700_000_000_000, "timed-out")),
        ("\n", Exit(None, None, "")),
        ("-1 1e3 \N{SUPERSCRIPT TWO} x y", Exit(None, None, "\N{SUPERSCRIPT TWO}")),
        ("\N{SUPERSCRIPT TWO} 5", Exit(None, 5, "")),
    ],
)
def test_how_the_code_ended_is_read_from_what_user_code_may_have_written(
    tmp_path: Path, text: str, end: Exit | None
) -> None:
    attempt = Attempt(tmp_path / "a", 1)
    assert AttemptDir(attempt.top).exit() is None
    (attempt.logs / "exit").write_text(text)
    assert AttemptDir(attempt.top).exit() == end


# SIGTERM ------------------------------------------------------------------------------------------


def test_sigterm_without_exit(door: DoorDouble, port: int, tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a", port, outputs=[Output("result", "**", required=True)])
    (attempt.logs / "stdout").write_text("log")
    agent = attempt.start("follow")
    until(lambda: door.names("logs/stdout"), "a piece of the log")
    (attempt.outputs / "x").write_text("x")
    agent.send_signal(signal.SIGTERM)
    assert ended(agent) == 0
    assert door.log("stdout") == b"log"
    assert door.stored("results/x") == b"x"
    assert len(door.manifests) == 1


def test_sigterm_while_the_server_hangs(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """A live upload that gets no answer is left; the end goes over connections of its own."""
    hanging, release = threading.Event(), threading.Event()

    def fault(call: str) -> Response | None:
        if call.startswith("PUT") and not hanging.is_set():
            hanging.set()
            release.wait(PATIENCE)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port, limits=AttemptLimits(grace=80))
    (attempt.logs / "stdout").write_text("log")
    agent = attempt.start("follow")
    assert hanging.wait(PATIENCE)
    agent.send_signal(signal.SIGTERM)
    try:
        assert ended(agent, 60) == 0
    finally:
        release.set()
    assert len(door.manifests) == 1


def test_the_grace_is_kept(door: DoorDouble, port: int, tmp_path: Path) -> None:
    """What cannot be stored in time is left out, and the manifest says so."""
    release = threading.Event()

    def fault(call: str) -> Response | None:
        if "results/b" in call:
            return Response("Later.\n", 503)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port, limits=AttemptLimits(grace=3))
    agent = attempt.start("follow")
    for name in "abc":
        (attempt.outputs / name).write_text(name)
    (attempt.logs / "stdout").write_text("x")
    until(lambda: door.names("logs/stdout"), "a piece of the log")
    start = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    assert ended(agent) == STAGE_OUT_FAILED
    assert time.monotonic() - start < PATIENCE / 2
    release.set()
    manifest = door.manifests[0]
    assert [result["name"] for result in manifest["results"]] == ["results/a", "results/c"]
    assert manifest["error"]["message"] == "Not everything could be stored in the time that was left."


@pytest.mark.parametrize(("word", "whole"), [("ended", True), ("timed-out", True), ("stopped", False)])
def test_a_pods_agent_has_longer_where_the_code_ended_by_itself(
    door: DoorDouble, port: int, tmp_path: Path, word: str, whole: bool
) -> None:
    """A kubelet ends it then as it does after a stop, and the store is away for longer than a grace."""
    back = threading.Event()
    tried = threading.Event()

    def fault(call: str) -> Response | None:
        if "results/x" in call and not back.is_set():
            tried.set()
            return Response("Later.\n", 503)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port, limits=AttemptLimits(grace=1), storing_seconds=600)
    (attempt.outputs / "x").write_text("x")
    attempt.end(how=word)
    agent = attempt.start("follow")
    assert tried.wait(PATIENCE)
    agent.send_signal(signal.SIGTERM)
    if whole:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait(3)
        back.set()
    assert ended(agent) == (0 if whole else STAGE_OUT_FAILED)
    assert [result["name"] for result in door.manifests[0]["results"]] == (["results/x"] if whole else [])


def test_the_grace_is_kept_by_a_dead_server(door: DoorDouble, port: int, tmp_path: Path) -> None:
    release = threading.Event()

    def fault(call: str) -> Response | None:
        if call.endswith("manifest"):
            release.wait(PATIENCE)
        return None

    door.fault = fault
    attempt = Attempt(tmp_path / "a", port, limits=AttemptLimits(grace=2))
    agent = attempt.start("follow")
    (attempt.logs / "stdout").write_text("x")
    until(lambda: door.names("logs/stdout"), "a piece of the log")
    start = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    try:
        assert ended(agent) == STAGE_OUT_FAILED
    finally:
        release.set()
    assert time.monotonic() - start < PATIENCE / 2
    assert attempt.said("stage-out")["transient"]
