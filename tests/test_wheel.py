"""The wheel holds every file of the packages, data and types included, and nothing else of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("job_templates", "runners", "uws_client", "uws_server")
BUILD = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that the build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for name in (*PACKAGES, "tests", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_every_file_of_the_packages_is_in_the_wheel(source: Path, wheel: zipfile.ZipFile) -> None:
    there = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == there


def test_each_package_says_that_it_has_types(wheel: zipfile.ZipFile) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel.namelist())


def test_the_wheel_has_both_commands_and_the_licence(wheel: zipfile.ZipFile) -> None:
    info = {
        name.rpartition("/")[2]: wheel.read(name).decode()
        for name in wheel.namelist()
        if ".dist-info/" in name
    }
    assert "uws-server = uws_server.cli:main" in info["entry_points.txt"]
    assert "uws-job = uws_client.cli:main" in info["entry_points.txt"]
    assert "License-Expression: BSD-3-Clause" in info["METADATA"]
    assert info["LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
