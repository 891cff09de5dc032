"""From a job of the ``notebook`` service to the values that its cells see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job_templates import catalog
from job_templates.render import render
from tests.waiting import PATIENCE
from uws_server.domain.job import Job, Parameter

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path: Path, *pairs: tuple[str, str]) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the command of a job whose notebook comes by URL, as the local site would."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "phase = 0.1\nN = 1\nn = 'x'"},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "import json, pathlib\npathlib.Path('seen.json').write_text(json.dumps([phase, N, n]))",
        },
    ]
    for cell in cells:
        cell |= {"execution_count": None, "outputs": []}
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    inputs, outputs = tmp_path / "inputs", tmp_path / "outputs"
    inputs.mkdir()
    outputs.mkdir()
    (inputs / "notebook.ipynb").write_text(json.dumps(notebook))
    given = (
        Parameter("notebook", "https://host/a.ipynb"),
        *(Parameter(name, value) for name, value in pairs),
    )
    spec = render(
        catalog.load().get("notebook"), Job("0" * 26, "notebook", "", 0, parameters=given, attempt=1)
    )
    (tmp_path / "parameters.json").write_text(json.dumps(spec.parameters))
    places = {
        "{inputs}": str(inputs),
        "{outputs}": str(outputs),
        "{parameters}": str(tmp_path / "parameters.json"),
        "{python}": sys.executable,
    }
    command = list(spec.command)
    for word, place in places.items():
        command = [item.replace(word, place) for item in command]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "UWS_ERROR": str(tmp_path / "error.json"),
    }
    done = subprocess.run(
        command, cwd=outputs, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done, outputs


@pytest.mark.covers("3:names-n-and-N", "3:names-notebook")
def test_phase_and_two_cases_of_n_are_typed_by_the_notebook(tmp_path: Path) -> None:
    done, outputs = run(tmp_path, ("p.phase", "1"), ("p.N", "7"), ("p.n", "7"))
    assert done.returncode == 0, done.stderr
    assert json.loads((outputs / "seen.json").read_text()) == [1.0, 7, "7"]


@pytest.mark.covers("3:bad-parameter")
def test_a_value_that_the_notebook_does_not_take_ends_before_any_cell_runs(tmp_path: Path) -> None:
    done, outputs = run(tmp_path, ("p.N", "many"))
    assert done.returncode == 7
    assert not (outputs / "seen.json").exists()
    assert (outputs / "executed.ipynb").exists()
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message.startswith("Parameter p.N is 'many'; the notebook takes a whole number there")
