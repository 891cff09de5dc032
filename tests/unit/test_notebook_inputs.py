"""What the notebook program is given, read before a kernel is started, at the cost of no library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runners.notebook.end import Exit, NotebookFailed
from runners.notebook.inputs import PARAMETERS_BYTES, check_names, load_notebook, load_parameters, typed
from tests.waiting import PATIENCE

HEAVY = {
    "papermill",
    "nbformat",
    "nbclient",
    "nbconvert",
    "jupyter_client",
    "zmq",
    "asyncio",
    "pydantic",
    "yaml",
}


def test_the_kernel_waits_for_no_library() -> None:
    code = "import runners.notebook.__main__, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    loaded = set(done.stdout.split())
    assert "runners.notebook.session" in loaded
    assert not loaded & HEAVY


@pytest.mark.covers("3:bad-not-a-notebook")
def test_a_file_that_is_no_notebook_is_told_apart_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        NotebookFailed, match=r"^The notebook cannot be read: No such file or directory$"
    ) as gone:
        load_notebook(tmp_path / "gone.ipynb")
    file = tmp_path / "a.ipynb"
    file.write_text("{}")
    with pytest.raises(
        NotebookFailed, match=r"^The file is not a Jupyter notebook: it has no 'nbformat'$"
    ) as no:
        load_notebook(file)
    assert gone.value.code == no.value.code == Exit.NOT_A_NOTEBOOK


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * PARAMETERS_BYTES + b'"}']
)
def test_parameters_that_are_no_object_end_the_run(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "parameters.json"
    file.write_bytes(content)
    with pytest.raises(NotebookFailed, match=r"^The parameters ") as failed:
        load_parameters(file)
    assert failed.value.code == Exit.PARAMETERS


def test_without_a_file_there_are_no_parameters(tmp_path: Path) -> None:
    assert load_parameters(None) == {}
    file = tmp_path / "parameters.json"
    file.write_text('{"n": 1}')
    assert load_parameters(file) == {"n": 1}


@pytest.mark.covers("3:names-notebook")
def test_text_is_typed_by_the_notebook_and_the_rest_is_left_alone() -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "n = 1\nx: float\ns = ''"}
    notebook = {"nbformat": 4, "metadata": {}, "cells": [cell]}
    assert typed(notebook, {"n": "2", "x": "3", "s": "4"}, ["n", "x"]) == {"n": 2, "x": 3.0, "s": "4"}
    with pytest.raises(
        NotebookFailed, match=r"^Parameter p\.n is 'two'; the notebook takes a whole number"
    ) as no:
        typed(notebook, {"n": "two", "x": "3"}, ["n"])
    with pytest.raises(NotebookFailed, match=r"^The notebook needs p\.x: a number$"):
        typed(notebook, {"n": "2"}, ["n"])
    assert no.value.code == Exit.PARAMETERS


@pytest.mark.parametrize(
    ("name", "language"), [("a b", "R"), ("1", "python"), ("x=1\nimport os", ""), ("if", "Python")]
)
def test_a_name_that_is_no_variable_is_never_written_into_the_notebook(name: str, language: str) -> None:
    with pytest.raises(NotebookFailed, match="cannot be the name of a parameter"):
        check_names({"fine": 1, name: 2}, language)


def test_words_of_python_are_names_elsewhere() -> None:
    check_names({"if_": 1, "lambda": 2}, "R")
