"""The two lines that a newcomer types, and those that the README shows, against a whole server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import demo
from tests.client.conftest import Standin, job_xml
from uws_client.cli import main as uws_job
from uws_client.connection import Connection
from uws_client.documents import read_job
from uws_client.protocol import RemoteJob

ROOT = Path(__file__).parents[2]


@pytest.mark.covers("3:demo", "3:demo-real-data", "3:demo-science", "3:template-lightcurve")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "R").mkdir()
    (tmp_path / "R" / "left over").touch()
    code = demo.main(["--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert re.search(r"^EXECUTING +\d of 8 cells$", said, re.MULTILINE)
    assert re.search(r"^period +[\d.]+ kB +sha256 ok +.*/R/period.json$", said, re.MULTILINE)
    found = {}
    for band in "RB":
        names = {path.name for path in (tmp_path / band).iterdir()}
        assert {"notebook.ipynb", "html.html", "period.json", "table.ecsv", "figure.png"} <= names
        assert "left over" not in names
        found[band] = json.loads((tmp_path / band / "period.json").read_text())
        assert found[band]["log10_false_alarm_probability"] < -20
        assert found[band]["injection"]["recovered"]
        assert (tmp_path / band / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert abs(found["R"]["period"] - found["B"]["period"]) < 1e-4
    assert abs(found["R"]["period"] - 0.93697) < 1e-4
    assert f"differ by {abs(found['R']['period'] - found['B']['period']):.6f} d" in said


def test_demo_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-u", "-m", "scripts.demo", "--results", str(tmp_path / "results")]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("EXECUTING"):
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, "demo: interrupted\n")
    assert list(tmp_path.iterdir()) == []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            assert os.fsencode(tmp_path) not in entry.read_bytes()


@pytest.mark.covers("3:demo-real-data")
def test_the_observations_are_the_ones_of_the_survey(tmp_path: Path) -> None:
    curves = demo.extract(tmp_path)
    lines = curves["R"].read_text().splitlines()
    assert lines[1].startswith("#1 3444 614 ")
    assert len([line for line in lines if not line.startswith("#")]) == 722


def test_demo_says_why_a_job_failed(standin: Standin, connection: Connection) -> None:
    summary = "<uws:errorSummary><uws:message>Cell 4 broke</uws:message></uws:errorSummary>"
    standin.on("GET", "/async/j1/error", "the long story")
    standin.on("GET", "/async/j1/results/stdout", "\n".join(f"line {n}" for n in range(40)))
    job = RemoteJob(standin.url + "/async/j1", connection)
    said = demo.failure(job, read_job(job_xml("ERROR", error=summary).encode(), job.url))
    assert "Cell 4 broke\nthe long story" in said
    assert "line 39" in said
    assert "line 20" not in said


@pytest.mark.parametrize(
    ("periods", "recovered", "words"),
    [
        ((0.93, 0.94), True, "should agree"),
        ((0.93, 0.93), False, "not found again"),
        ((0.93, 0.93), True, ""),
    ],
)
def test_demo_is_honest(tmp_path: Path, periods: tuple[float, float], recovered: bool, words: str) -> None:
    for band, period in zip("RB", periods, strict=True):
        (tmp_path / band).mkdir()
        injection = {"found": 0.5, "recovered": recovered}
        result = {"period": period, "period_error": 0, "points": 9, "log10_false_alarm_probability": -9}
        (tmp_path / band / "period.json").write_text(json.dumps({**result, "injection": injection}))
    if words:
        with pytest.raises(demo.Failed, match=words):
            demo.compare(tmp_path)
    else:
        demo.compare(tmp_path)


# -- the README --------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```bash\n(.*?)```", README, re.DOTALL))
PRINTED = dict(re.findall(r"<!-- prints: (\w+) -->\n```text\n(.*?)```", README, re.DOTALL))
ADDRESS = "http://127.0.0.1:8080"


def run_block(name: str, directory: Path, url: str = "", codes: tuple[int, ...] = (0,)) -> str:
    """What a block prints, which has to be what the README says that it prints."""
    script = BLOCKS[name].replace(ADDRESS, url or ADDRESS)
    done = subprocess.run(
        ["bash", "-uo", "pipefail", "-c", script],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("UWS_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    if name in PRINTED:
        assert re.fullmatch(pattern(PRINTED[name]), done.stdout), done.stdout + done.stderr
    return done.stdout


def pattern(shown: str) -> str:
    """The README's words as they stand; … is anything in a line or, alone, any lines; blanks are some."""
    lines = [
        r"(?:.*\n)*?"
        if line == "…"
        else r" *".join(map(re.escape, line.split())).replace("…", ".*") + r" *\n"
        for line in shown.splitlines()
    ]
    return "".join(lines)


@contextlib.contextmanager
def serving_block(name: str, directory: Path) -> Iterator[str]:
    """The URL of the server that a block starts, on a port that is free, until Ctrl-C."""
    environment = {**os.environ, "UWS_WEB__PORT": "0", "UWS_SERVER": ""}
    log = directory / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", "exec " + BLOCKS[name].strip()],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.search(r"is ready at (\S+) after", line)
        assert ready, line + log.read_text()
        yield ready[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory in which the README's `.venv/bin` is the one of these tests."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_every_command_of_the_readme_is_run() -> None:
    assert set(BLOCKS) == {
        "server",
        "notebook",
        "failure",
        "script",
        "parameters",
        "operator",
        "up",
        "double",
    }
    assert README.count("```bash") == len(BLOCKS)
    assert set(PRINTED) == set(BLOCKS) - {"server", "up"}
    # `test_demo` runs the first; the second runs these tests.
    assert re.findall(r"^    (\S.*)", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.MULTILINE) == [
        "scripts/demo",
        "scripts/test",
    ]


@pytest.mark.covers("3:client-curl")
def test_readme_script(live: str, tmp_path: Path) -> None:
    assert run_block("script", tmp_path, live) == "COMPLETED\n42\n"


@pytest.mark.covers("3:client-curl", "UWS-61", "UWS-65")
def test_readme_parameters(live: str, tmp_path: Path) -> None:
    run_block("parameters", tmp_path, live)


@pytest.mark.covers("3:cli-job", "3:up")
def test_readme_for_scientists(checkout: Path) -> None:
    code = ["n = 1", "mean = sum(range(n)) / n", "open('mean.txt', 'w').write(str(mean))"]
    cells: list[dict[str, object]] = [
        {"cell_type": "code", "source": text, "metadata": {}, "outputs": [], "execution_count": None}
        for text in code
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": kernel, "cells": cells}
    (checkout / "analysis.ipynb").write_text(json.dumps(notebook))
    with serving_block("server", checkout) as url:
        run_block("notebook", checkout, url)
        assert (checkout / "results" / "output.txt").read_text() == "1.0"
        words = f"export UWS_SERVER={url} PATH={checkout}/.venv/bin:$PATH\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(BLOCKS, "failure", words + BLOCKS["failure"])  # the terminal of the block before
            run_block("failure", checkout, url)
    assert (checkout / "my-jobs").is_dir()


@pytest.mark.covers("3:up", "3:templates-check")
def test_readme_for_operators(checkout: Path) -> None:
    run_block("operator", checkout, codes=(0, 2))
    assert not (checkout / "uws-data").exists()
    with serving_block("up", checkout) as url:
        run_block("double", checkout, url)


@pytest.mark.parametrize("text", ["README.md", "docs/uws-job.md"])
def test_links_lead_somewhere_and_commands_exist(text: str) -> None:
    page = (ROOT / text).read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page):
        assert (ROOT / text).parent.joinpath(target).exists(), target
    for verb in re.findall(r"uws-job ([a-z]+)", page):
        assert verb in uws_job.commands, verb
    for script in re.findall(r"`?(scripts/[a-z-]+)", page):
        assert (ROOT / script).exists()
