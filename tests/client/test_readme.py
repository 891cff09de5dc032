"""What the README tells to type, typed, against a whole server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.readme import BLOCKS, PRINTED, README, run_block, serving_block
from uws_client.cli import main as uws_job

ROOT = Path(__file__).parents[2]


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
        "cluster",  # by tests/kubernetes/test_readme.py, as the next
        "cluster-demo",
    }
    assert README.count("```bash") == len(BLOCKS)
    assert set(PRINTED) == set(BLOCKS) - {"server", "up", "cluster", "cluster-demo"}
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
