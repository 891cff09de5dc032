"""Which test shows which item: reads the ``covers`` marks and holds them against tests/items.toml.

As a pytest plugin it adds ``--covers-json FILE``, which writes the marks of every collected test.
As a program (``python -m tests.plugins.covers``) it writes docs/coverage.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ITEMS = ROOT / "tests" / "items.toml"
CONFORMANCE = ROOT / "docs" / "conformance.md"
TABLE = ROOT / "docs" / "coverage.md"

# A line of a table of docs/conformance.md: | id | why it does not apply |
_EXCUSE = re.compile(r"^\|\s*((?:UWS|DALI|VOSI)-\d\d|3:[\w-]+)\s*\|\s*(\S.*?)\s*\|\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Marked:
    """A test, the items that it says it shows, and whether it runs only with ``scripts/test --all``."""

    test: str
    items: tuple[str, ...]
    long: bool


# ---- the plugin --------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--covers-json", metavar="FILE", help="write the covers marks of all collected tests")


@pytest.hookimpl(tryfirst=True)  # before -m and -k take tests away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    target = config.getoption("--covers-json")
    if target is None:
        return
    rows = [
        {
            "test": item.nodeid,
            "items": [name for mark in item.iter_markers("covers") for name in mark.args],
            "long": item.get_closest_marker("long") is not None,
        }
        for item in items
    ]
    Path(target).write_text(json.dumps(rows), encoding="utf-8")


# ---- reading -----------------------------------------------------------------------------------------------


def read_items(text: str) -> dict[str, str]:
    """The items of items.toml, id -> sentence, in the order of the file."""
    tables: dict[str, dict[str, str]] = tomllib.loads(text)
    return {name: sentence for table in tables.values() for name, sentence in table.items()}


def read_excuses(text: str) -> dict[str, str]:
    """The items that docs/conformance.md says do not apply, id -> why."""
    return dict(_EXCUSE.findall(text))


def collect_marks() -> list[Marked]:
    """The marks of the whole suite, from a pytest of its own that only collects."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "marks.json"
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, f"--covers-json={target}", str(ROOT / "tests")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        if done.returncode != 0 or not target.exists():
            raise RuntimeError(f"the tests could not be collected:\n{done.stdout}\n{done.stderr}")
        rows = json.loads(target.read_text(encoding="utf-8"))
    return [Marked(test=row["test"], items=tuple(row["items"]), long=row["long"]) for row in rows]


# ---- judging -----------------------------------------------------------------------------------------------


def unknown_items(items: Mapping[str, str], excuses: Mapping[str, str], marks: Sequence[Marked]) -> list[str]:
    """What marks or excuses name that is no item, each with the place."""
    stray = [f"{name} ({mark.test})" for mark in marks for name in mark.items if name not in items]
    return stray + [f"{name} (docs/conformance.md)" for name in excuses if name not in items]


def uncovered_items(
    items: Mapping[str, str], excuses: Mapping[str, str], marks: Sequence[Marked]
) -> list[str]:
    """The items that no test of the ordinary run shows and that nothing excuses."""
    shown = {name for mark in marks if not mark.long for name in mark.items}
    return [name for name in items if name not in shown and name not in excuses]


# ---- the table ---------------------------------------------------------------------------------------------


def render_table(items: Mapping[str, str], excuses: Mapping[str, str], marks: Sequence[Marked]) -> str:
    """docs/coverage.md: a line per item with the tests that show it; a parametrised test stands once."""
    lines = [
        "# What the tests show",
        "",
        "Made by `scripts/coverage-table` from the `covers` marks of the tests; do not edit.",
        "`×n`: a test with n sets of values. (long): runs only with `scripts/test --all`.",
        "",
        "| Item | What | Tests |",
        "|---|---|---|",
    ]
    for name, sentence in items.items():
        counts: dict[str, int] = {}
        for mark in marks:
            if name in mark.items:
                place = mark.test.split("[")[0].removeprefix("tests/")
                label = f"`{place}`" + (" (long)" if mark.long else "")
                counts[label] = counts.get(label, 0) + 1
        cell = "<br>".join(label + (f" ×{n}" if n > 1 else "") for label, n in sorted(counts.items()))
        if not cell:
            cell = f"does not apply: {excuses[name]}" if name in excuses else "**none**"
        lines.append(f"| {name} | {sentence} | {cell} |")
    shown = len(items) - len(uncovered_items(items, excuses, marks))
    return "\n".join([*lines, "", f"{shown} of {len(items)} items are shown or do not apply.", ""])


def main() -> int:
    """Write docs/coverage.md; the exit code tells whether every item is shown."""
    items = read_items(ITEMS.read_text(encoding="utf-8"))
    excuses = read_excuses(CONFORMANCE.read_text(encoding="utf-8")) if CONFORMANCE.exists() else {}
    marks = collect_marks()
    TABLE.write_text(render_table(items, excuses, marks), encoding="utf-8")
    missing = uncovered_items(items, excuses, marks)
    print(f"docs/coverage.md: {len(items) - len(missing)} of {len(items)} items shown or not applicable")
    if missing:
        print("without a test: " + " ".join(missing))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
