"""The gate: every item of tests/items.toml has a test, or a reason in docs/conformance.md."""

from __future__ import annotations

import pytest

from tests.plugins.covers import (
    CONFORMANCE,
    ITEMS,
    Marked,
    collect_marks,
    read_excuses,
    read_items,
    render_table,
    uncovered_items,
    unknown_items,
)

_ITEMS = {"UWS-01": "One", "3:thing": "Thing", "DALI-02": "Two"}


@pytest.fixture(scope="module")
def marks() -> list[Marked]:
    return collect_marks()


@pytest.fixture(scope="module")
def items() -> dict[str, str]:
    return read_items(ITEMS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def excuses() -> dict[str, str]:
    return read_excuses(CONFORMANCE.read_text(encoding="utf-8"))


def test_every_item_has_a_test_or_a_reason(
    items: dict[str, str], excuses: dict[str, str], marks: list[Marked]
) -> None:
    missing = uncovered_items(items, excuses, marks)
    assert not missing, f"{len(missing)} items without a test or a reason: {' '.join(missing)}"


def test_no_mark_names_an_unknown_item(
    items: dict[str, str], excuses: dict[str, str], marks: list[Marked]
) -> None:
    assert unknown_items(items, excuses, marks) == []


def test_the_list_has_every_rule(items: dict[str, str]) -> None:
    wanted = [f"UWS-{n:02}" for n in range(1, 80)]
    wanted += [f"DALI-{n:02}" for n in range(1, 19)]
    wanted += [f"VOSI-{n:02}" for n in range(1, 8)]
    assert [name for name in items if ":" not in name] == wanted


def test_an_item_without_a_test_is_found() -> None:
    marks = [Marked("t::a", ("UWS-01",), long=False)]
    assert uncovered_items(_ITEMS, {"DALI-02": "why"}, marks) == ["3:thing"]


def test_a_test_of_the_long_run_alone_does_not_count() -> None:
    marks = [Marked("t::a", tuple(_ITEMS), long=True)]
    assert uncovered_items(_ITEMS, {}, marks) == list(_ITEMS)


def test_a_misspelt_item_is_found() -> None:
    marks = [Marked("t::a", ("UWS-1",), long=False)]
    assert unknown_items(_ITEMS, {"DALI-99": "why"}, marks) == [
        "UWS-1 (t::a)",
        "DALI-99 (docs/conformance.md)",
    ]


def test_reasons_are_read_from_table_lines_that_have_one() -> None:
    text = "| id | why |\n|---|---|\n| UWS-40 | a reason |\n| DALI-16 |  |\nUWS-41 is not a line\n"
    assert read_excuses(text) == {"UWS-40": "a reason"}


def test_the_table_counts_a_parametrised_test_once() -> None:
    marks = [
        Marked("tests/t.py::a[1]", ("UWS-01",), long=False),
        Marked("tests/t.py::a[2]", ("UWS-01",), long=False),
    ]
    table = render_table(_ITEMS, {"DALI-02": "why"}, marks)
    assert "| UWS-01 | One | `t.py::a` ×2 |" in table
    assert "| 3:thing | Thing | **none** |" in table
    assert "| DALI-02 | Two | does not apply: why |" in table
    assert "2 of 3 items" in table
