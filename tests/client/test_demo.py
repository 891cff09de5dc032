"""The demo, and that it ends well or badly as it should."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import demo
from tests.client.conftest import Standin, job_xml
from tests.waiting import PATIENCE
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
        _, said = process.communicate(timeout=PATIENCE)
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
