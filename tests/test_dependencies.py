"""Every dependency has its reason in docs/dependencies.md; lock files carry hashes and name no index."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = [ROOT / "deploy" / "locks" / name for name in ("run.txt", "test.txt")]


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return match.group().lower().replace("_", "-")


def _declared() -> set[str]:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = metadata["options"]["install_requires"].split("\n")
    for extra in metadata["options.extras_require"].values():
        lines += extra.split("\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    lines += [line for group in groups.values() for line in group]
    return {_name(line) for line in lines if line}


def test_every_dependency_has_a_reason_and_no_reason_is_left_over() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([a-z0-9, -]+) \| [A-Z]", text, re.MULTILINE)
    reasons = {name for cell in cells for name in cell.split(", ")}
    extras = set(re.findall(r"`\w+` \((\w+)\)", text))
    assert reasons | extras == _declared()


@pytest.mark.covers("3:setup")
@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_and_hashes_every_package_and_names_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"\S+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


@pytest.mark.covers("3:setup")
def test_everything_declared_is_locked() -> None:
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", LOCKS[-1].read_text(encoding="utf-8"), re.MULTILINE))
    assert {name.split("[")[0] for name in _declared() - {"docker", "kubernetes"}} <= pinned


@pytest.mark.covers("3:setup")
def test_what_runs_is_locked_in_the_same_versions_for_tests() -> None:
    pins = {
        lock.stem: set(re.findall(r"^(\S+==\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
        for lock in LOCKS
    }
    assert pins["run"] < pins["test"]
