from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import uws_client
from tests.client.conftest import Asked, Reply, Standin, job_xml, result_xml
from tests.waiting import PATIENCE, until
from uws_client.arguments import read_parameter, read_seconds
from uws_client.cli import main

COMMAND = [sys.executable, "-m", "uws_client.cli"]


def uws_job(*arguments: str, server: str = "", token: str = "") -> Result:
    environment = {"UWS_SERVER": server, "UWS_TOKEN": token}
    return CliRunner().invoke(main, list(arguments), env=environment, catch_exceptions=False)


# -- against our own server --------------------------------------------------------------------------


@pytest.mark.covers("3:cli-job", "3:cli-output")
def test_a_job_from_submit_to_delete(live: str, tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "print('hello from the job'); print('and a complaint', file=sys.stderr)\n"
        "pathlib.Path(os.environ['UWS_OUTPUTS'], 'answer.txt').write_text('42')\n"
    )
    done = uws_job("submit", "script", f"script=@{script}", "--run-id", "mine", "--wait", server=live)
    assert done.exit_code == 0, done.output
    url = done.stdout.strip()
    assert url.startswith(f"{live}/script/async/")
    assert "COMPLETED" in done.stderr

    job_id = url.rpartition("/")[2]
    for name in (url, f"script/{job_id}", job_id):
        shown = uws_job("show", name, "--json", server=live)
        assert json.loads(shown.stdout)["run_id"] == "mine"
    assert "COMPLETED" in uws_job("show", url).stdout
    listed = [json.loads(line) for line in uws_job("list", "--json", server=live).stdout.splitlines()]
    assert job_id in {entry["id"] for entry in listed}
    assert (
        f"script/{job_id}  COMPLETED" in uws_job("list", "script", "--phase", "completed", server=live).stdout
    )
    assert job_id not in uws_job("list", "--phase", "ERROR", server=live).stdout

    assert uws_job("logs", url).stdout == "hello from the job\n"
    assert "and a complaint" in uws_job("logs", "--stderr", "-f", url).stdout
    assert json.loads(uws_job("logs", "--json", url).stdout)["text"] == "hello from the job\n"

    assert re.search(r"^result +2 B  text/plain ", uws_job("results", url).stdout, re.MULTILINE)
    fetched = uws_job("results", url, str(tmp_path / "got"), "--json")
    files = {entry["id"]: entry for entry in map(json.loads, fetched.stdout.splitlines())}
    assert Path(files["result"]["path"]).name == "result.txt"
    assert Path(files["result"]["path"]).read_text() == "42"
    assert files["result"]["checked"]

    assert uws_job("abort", url).exit_code == 6
    assert uws_job("delete", url).exit_code == 0
    gone = uws_job("show", url)
    assert gone.exit_code == 6
    assert "404" in gone.stderr


@pytest.mark.covers("3:cli-exit-code")
def test_exit_codes_of_waiting(live: str, tmp_path: Path) -> None:
    bad, endless = tmp_path / "bad.py", tmp_path / "endless.py"
    bad.write_text("raise SystemExit('it broke')\n")
    endless.write_text("import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.05)\n")
    failed = uws_job("submit", "script", f"script=@{bad}", "--wait", "--json", server=live)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["phase"] == "ERROR"

    url = uws_job("submit", "script", f"script=@{endless}", "--time", "10min", server=live).stdout.strip()
    late = uws_job("wait", url, "--timeout", "1s")
    assert late.exit_code == 4
    assert re.search(r"is still (QUEUED|EXECUTING) after 1 s", late.stderr)
    assert json.loads(uws_job("show", url, "--json").stdout)["duration"] == 600
    assert uws_job("abort", url).stdout == "ABORTED\n"
    assert uws_job("wait", url).exit_code == 3


def test_pending_until_it_is_run(live: str, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(1)\n")
    url = uws_job(
        "submit", "script", f"script=@{script}", "--no-run", "--cpu", "0.5", "--memory", "256MiB", server=live
    ).stdout.strip()
    shown = json.loads(uws_job("show", url, "--json").stdout)
    assert shown["phase"] == "PENDING"
    assert {("CPU", "0.5"), ("MEMORY", "256MiB")} <= {(p["name"], p["value"]) for p in shown["parameters"]}
    assert uws_job("run", url).exit_code == 0
    assert uws_job("wait", url).exit_code == 0


def test_a_job_is_named_after_its_file_unless_told_otherwise(live: str, tmp_path: Path) -> None:
    script, other = tmp_path / f"{'long' * 20}.py", tmp_path / "other.txt"
    script.write_text("print(1)\n")
    other.write_text("x")

    def run_id(*words: str) -> object:
        sent = (f"input=@{other}", f"script=@{script}")
        done = uws_job("submit", "script", *sent, "--no-run", "--json", *words, server=live)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["run_id"]

    assert run_id() == ("long" * 20)[:63] + "…"
    assert run_id("--run-id", "mine") == "mine"
    assert run_id("--run-id", "") is None


@pytest.mark.covers("3:cli-job")
def test_what_time_was_granted_is_said_where_it_is_not_what_was_asked(live: str, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(1)\n")
    words = ("submit", "script", f"script=@{script}", "--no-run")
    asked = {
        "--time=99d": "you asked for 99d, the server granted 7d",
        "--time=1h": "",
        "--time=0": "no limit",
    }
    for option, said in asked.items():
        done = uws_job(*words, option, server=live)
        assert done.exit_code == 0
        assert said in done.stderr
        assert (done.stderr == "") == (said == "")
        assert done.stdout.startswith(f"{live}/script/async/")
    long = uws_job(*words, "--time", "99d", "--json", server=live)
    assert json.loads(long.stdout)["duration"] == 7 * 86400
    assert "granted 7d" in long.stderr


def test_what_the_server_refuses_is_said_in_its_words(live: str) -> None:
    refused = uws_job("submit", "lightcurve", "min_period=soon", server=live)
    assert refused.exit_code == 6
    assert "400 Bad Request: " in refused.stderr
    assert "Traceback" not in refused.output
    assert uws_job("show", "nothing", server=live).exit_code == 6
    for words in (["list", "hello.py"], ["submit", "hello.py"], ["show", "hello.py/j1"]):
        unknown = uws_job(*words, server=live)
        assert unknown.exit_code == 6
        assert "has no service 'hello.py'; it has: container, lightcurve, notebook, script" in unknown.stderr
    unnamed = uws_job("submit", "a=b", server=live)
    assert unnamed.exit_code == 2
    assert "has several services; name one of: container, " in unnamed.stderr


def test_a_forgotten_at_sign_is_pointed_out(live: str, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print(1)\n")
    refused = uws_job("submit", "script", f"script={script}", server=live)
    assert refused.exit_code == 6
    assert f"(to send a file along write: script=@{script})" in refused.stderr
    assert "to send a file" not in uws_job("submit", "script", f"script={script}x", server=live).stderr


# -- against a server that misbehaves, or is of another kind -----------------------------------------


def test_ends_of_waiting(standin: Standin) -> None:
    url = standin.url + "/async/j1"
    for phase, code in {"COMPLETED": 0, "ERROR": 1, "ABORTED": 3, "HELD": 4, "ARCHIVED": 0}.items():
        standin.on("GET", "/async/j1", job_xml(phase))
        assert uws_job("wait", url).exit_code == code


@pytest.mark.covers("3:cli-exit-code")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "{url}/async/j9"], 6, "404 Not Found: no such thing"),
        (["show", "{url}/html"], 5, "not with the UWS element <job>"),
        (["show", "{url}/broken"], 5, "did not answer with XML"),
        (["show", "http://127.0.0.1:{free}/async/j"], 5, "cannot be reached"),
        (["show", "ftp://127.0.0.1/async/j"], 5, "no http or https"),
        (["show", "http://127.0.0.1:{free}/async/j"], 5, "refused. Does the server run"),
        (["show", "{url}/broken"], 5, "Is this the address of a job?"),
        (["list", "--server", "127.0.0.1:8080"], 2, "write it with http://"),
        (["show", "", "--server", "{url}/async"], 2, "which job?"),
        (["show", "j1"], 2, "tell the server"),
        (["list"], 2, "--server"),
        (["list", "--server", "{url}/async", "--phase", "RUNNING"], 2, "'RUNNING' is no phase"),
        (["list", "--server", "{url}/async", "--after", "noon"], 2, "'noon' is no instant"),
        (["list", "--server", "{url}/html"], 5, "is no UWS job list"),
        (["submit", "--server", "{url}/async", "nothing", "x"], 2, "'x' is not NAME=VALUE"),
        (["submit", "--server", "{url}/async", "f=@/no/such/file"], 2, "/no/such/file does not exist"),
        (["submit", "--server", "{url}/async", "phase=RUN"], 2, "word of UWS"),
        (["submit", "--server", "{url}/async", "--time", "long"], 2, "'long' is no duration"),
        (["submit", "--server", "{url}/async", "--no-run", "--wait"], 2, "wait for ever"),
        (["submit", "--server", "{url}/async", "notebook"], 2, "is one job list"),
        (["results", "{url}/async/lying", "{tmp}/a"], 7, "SHA-256"),
        (["results", "{url}/async/lying", "--id", "nothing"], 6, "no result 'nothing'"),
        (["results", "{url}/async/lying", "/dev/null/x"], 7, "Not a directory"),
        (["logs", "{url}/async/lying"], 6, "404"),
    ],
)
def test_what_goes_wrong(
    standin: Standin, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        places = {"url": standin.url, "free": held.getsockname()[1], "tmp": tmp_path}
        standin.on("GET", "/html", "<html/>")
        standin.on("GET", "/broken", "<uws:job")
        lying = result_xml("r", f"{standin.url}/r", f'uwsc:sha256="{"0" * 64}"')
        standin.on("GET", "/async/lying", job_xml("COMPLETED", results=lying))
        standin.on("GET", "/r", "abc")
        result = uws_job(*[argument.format_map(places) for argument in arguments])
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.covers("3:cli-foreign")
def test_a_server_of_uws_1_0(standin: Standin) -> None:
    standin.on("POST", "/async", Reply(b"", 303, {"Location": "/async/j1"}))
    standin.once_each(
        "GET", "/async/j1", job_xml("EXECUTING", version=None), job_xml("COMPLETED", version=None)
    )
    done = uws_job("submit", "QUERY=SELECT 1", "--wait", server=standin.url + "/async")
    assert done.exit_code == 0
    assert done.stdout == f"{standin.url}/async/j1\n"
    assert done.stderr.splitlines()[-2:] == ["EXECUTING", "COMPLETED"]
    assert standin.asked[0].form == {"QUERY": ["SELECT 1"], "PHASE": ["RUN"]}


def test_token_comes_from_the_environment(standin: Standin) -> None:
    standin.on("GET", "/async/j1", job_xml("PENDING"))
    uws_job("show", "j1", server=standin.url + "/async", token="secret")
    assert standin.asked[-1].headers["Authorization"] == "Bearer secret"


def test_names_of_a_server_do_not_steer_the_terminal(standin: Standin) -> None:
    error = "<uws:errorSummary><uws:message>&#x9b;31m red &#x202e;</uws:message></uws:errorSummary>"
    results = result_xml("&#x9b;2J", "/r", 'mime-type="&#x9b;"')
    standin.on("GET", "/async/j1", job_xml("ERROR", error=error, results=results))
    url = standin.url + "/async/j1"
    said = "".join(uws_job(*words, url).output for words in (["show"], ["wait"], ["results"]))
    assert "red" in said
    assert not {"\x9b", "\u202e"} & set(said)


def test_log_as_json_keeps_letters_whole(standin: Standin) -> None:
    text = "x" + "αβγ" * 100_000
    standin.on("GET", "/async/j1/results/stdout", text)
    lines = uws_job("logs", "--json", standin.url + "/async/j1").stdout.splitlines()
    assert len(lines) > 1
    assert "".join(json.loads(line)["text"] for line in lines) == text


def test_finished_job_without_results(standin: Standin) -> None:
    standin.on("GET", "/async/j1", job_xml("ABORTED"))
    result = uws_job("results", standin.url + "/async/j1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "has no results" in result.stderr


# -- as a process ------------------------------------------------------------------------------------


@pytest.mark.covers("3:cli-fast-help")
def test_help_names_the_exit_codes_and_loads_nothing_heavy() -> None:
    began = time.perf_counter()
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    print(f"uws-job --help: {time.perf_counter() - began:.3f} s")
    assert "COMPLETED" in done.stdout
    for verb in ("submit", "list", "show", "wait", "logs", "results", "abort", "delete"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)
    code = "import sys, uws_client.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"httpx", "lxml", "ssl", "numpy", "uws_server", "astropy"} & set(loaded)


def test_the_client_needs_nothing_of_the_server() -> None:
    names = sorted(path.stem for path in Path(uws_client.__path__[0]).glob("*.py") if path.stem != "__init__")
    code = f"import sys; from uws_client import {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "httpx" in loaded
    assert not {"uws_server", "runners", "job_templates", "flask", "pydantic", "numpy"} & set(loaded)


@pytest.mark.covers("3:cli-output")
def test_bar_on_a_terminal_and_ctrl_c(standin: Standin) -> None:
    info = '<progress done="3" of="10"/>'
    standin.on("GET", "/async/j1", job_xml("EXECUTING", version=None, info=info))
    url = standin.url + "/async/j1"
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([*COMMAND, "wait", url], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""

    def more() -> None:
        nonlocal said
        if select.select([mine], [], [], 0.05)[0]:
            try:
                said += os.read(mine, 65536)
            except OSError:  # the other end is closed
                time.sleep(0.01)

    def drawn() -> bool:
        more()
        return said.count(b"\r") >= 3

    def ended() -> bool:
        more()
        return process.poll() is not None

    try:
        until(drawn, "a bar that moves")
        process.send_signal(signal.SIGINT)
        until(ended, "the end of the command")
        more()
    finally:
        process.kill()
        process.wait()
        os.close(mine)
    assert process.returncode == 130
    text = said.decode()
    assert re.search(r"\r\x1b\[K\[#{7}-{17}\] EXECUTING  3 of 10", text)
    assert f"uws-job wait {url}" in text
    assert all(asked.method == "GET" for asked in standin.asked)


@pytest.mark.covers("3:cli-output")
def test_plain_lines_in_a_pipe(standin: Standin) -> None:
    def busy(done: int) -> str:
        return job_xml("EXECUTING", info=f'<progress done="{done}" of="2"/>')

    standin.once_each("GET", "/async/j1", job_xml("QUEUED"), *[busy(1)] * 5, busy(2), job_xml("COMPLETED"))
    done = subprocess.run(
        [*COMMAND, "wait", standin.url + "/async/j1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout == ""
    assert done.stderr == "QUEUED\nEXECUTING  1 of 2\nEXECUTING  2 of 2\nCOMPLETED\n"


def test_a_server_that_is_away_while_waiting_is_asked_again_and_that_is_said(standin: Standin) -> None:
    done = job_xml("COMPLETED")
    standin.once_each("GET", "/async/j1", job_xml("EXECUTING"), Reply(b"", 503), done)
    waited = subprocess.run(
        [*COMMAND, "wait", standin.url + "/async/j1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert (
        waited.stderr == "EXECUTING\nEXECUTING  (the server does not answer; it is asked again)\nCOMPLETED\n"
    )


def test_interrupted_while_sending_says_how_to_find_out(standin: Standin, tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold(_: Asked) -> Reply:
        asked.set()
        go_on.wait(PATIENCE)
        return Reply(b"", 303, {"Location": "/async/j1"})

    standin.on("POST", "/async", hold)
    command = [*COMMAND, "submit", "q=1", "--server", standin.url + "/async"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=PATIENCE)
    finally:
        go_on.set()
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, "")
    assert "whether a job was made shows:  uws-job list" in complaint


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", 7), (">&-", 0)])
def test_output_that_goes_nowhere(standin: Standin, redirection: str, code: int) -> None:
    standin.on("GET", "/async/j1", job_xml("COMPLETED"))
    script = f'exec "$@" {redirection}'
    words = ["bash", "-c", script, "bash", *COMMAND, "show", standin.url + "/async/j1"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == code
    expected = "uws-job: what was to be printed cannot be written: No space left on device\n"
    assert done.stderr == (expected if code else "")


def test_a_reader_that_goes_away(standin: Standin) -> None:
    standin.on("GET", "/async/j1/results/stdout", b"x" * 4_000_000)
    process = subprocess.Popen(
        [*COMMAND, "logs", standin.url + "/async/j1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    assert process.wait(timeout=PATIENCE) == 1
    assert b"Traceback" not in said


# -- what people type --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30min", 1800),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1H 5s", 3605),
        ("2d2h", 180000),
        ("3 h", 10800),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "-5", "1.5h", "5 weeks", "five", "3x4", "2d2", "1m2h", "1h1h", "1 0", "٣h"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        read_seconds(text)


def test_parameters(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    assert read_parameter("a=b=c") == ("a", "b=c")
    assert read_parameter("a=") == ("a", "")
    assert read_parameter("a=@@me") == ("a", "@me")
    assert read_parameter(f"a=@{path}") == ("a", path)
    assert read_parameter("p.phase=1") == ("p.phase", "1")
    with pytest.raises(ValueError, match="is no file"):
        read_parameter(f"a=@{tmp_path}")
