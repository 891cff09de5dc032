"""Reading a notebook's parameters cell: right on real cells, unmoved by hostile ones."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_templates.notebook import MAX_BYTES, read_notebook
from job_templates.notebook_parameters import NotebookParameter, read_parameters


def with_cell(source: Any, metadata: Any = None) -> bytes:
    python = {"kernelspec": {"name": "python3", "language": "python"}}
    cell = {
        "cell_type": "code",
        "id": "b",
        "metadata": {"tags": ["parameters"]},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    other = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# A\n", "title"]}
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": python if metadata is None else metadata,
        "cells": [other, cell],
    }
    return json.dumps(notebook).encode()


def parameters(source: str) -> dict[str, NotebookParameter]:
    found = read_parameters(with_cell(source))
    assert found is not None
    return {one.name: one for one in found}


CELL = """\
%matplotlib inline
# a comment of its own
light_curve = "a.mjd"  # path of the file
phase: float = 1
N = 3
n = 2.5  # type: float a number
ids: "list[int]" = [
    1,
    2,  # inner
]  # their ids
limit: int | None = None
best: Optional[float] = 0.5
table = dict(a=1)
needed: str
a, b = True, "x"
c = d = (1, -2.5)
far = float("inf")
what: np.ndarray = None
N = 4  # the last one holds
"""


@pytest.mark.covers("3:template-notebook", "3:names-n-and-N")
def test_names_types_defaults_and_help_of_a_real_cell() -> None:
    found = parameters(CELL)
    seen = {name: (one.type, one.default, one.help) for name, one in found.items()}
    assert seen == {
        "light_curve": ("str", "a.mjd", "path of the file"),
        "phase": ("float", 1, ""),
        "n": ("float", 2.5, "a number"),
        "ids": ("list", [1, 2], "their ids"),
        "limit": ("int", None, ""),
        "best": ("float", 0.5, ""),
        "table": ("any", None, ""),
        "needed": ("str", None, ""),
        "a": ("bool", True, ""),
        "b": ("str", "x", ""),
        "c": ("list", [1, -2.5], ""),
        "d": ("list", [1, -2.5], ""),
        "far": ("any", None, ""),
        "what": ("any", None, ""),
        "N": ("int", 4, "the last one holds"),
    }
    assert [name for name, one in found.items() if one.required] == ["needed"]
    assert [name for name, one in found.items() if one.nullable] == ["limit", "best", "what"]
    assert found["table"].text == "dict(a=1)"
    assert found["ids"].text == "[\n    1,\n    2,  # inner\n]"


def test_the_shipped_notebook_describes_itself() -> None:
    from importlib.resources import files

    content = (files("job_templates") / "data" / "lightcurve.ipynb").read_bytes()
    found = read_parameters(content)
    assert found is not None
    assert [(one.name, one.type) for one in found] == [
        ("light_curve", "str"),
        ("min_period", "float"),
        ("max_period", "float"),
        ("inject_period", "float"),
        ("inject_amplitude", "float"),
    ]
    assert all(one.help for one in found)


def test_without_a_cell_there_are_none_and_in_another_language_they_are_unknown() -> None:
    plain = {"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = 1"}]}
    assert read_parameters(json.dumps(plain).encode()) == ()
    in_r = {"kernelspec": {"name": "ir", "language": "R"}, "language_info": {"name": "R"}}
    assert read_parameters(with_cell("x <- 1", in_r)) is None
    assert read_parameters(with_cell("x <- 1", {"kernelspec": {"name": "ir"}})) is None
    unnamed = read_parameters(with_cell("x = 1", {}))
    assert unnamed is not None
    assert [one.name for one in unnamed] == ["x"]


def test_the_same_names_as_papermill_on_plain_cells() -> None:
    import nbformat
    from papermill import inspect_notebook

    source = 'a = 1\nb: float = 2.5  # help\nc = "x"  # type: str text\nd = [\n  1,\n  2]\n'
    theirs = inspect_notebook(nbformat.reads(with_cell(source).decode(), as_version=4))  # type: ignore[no-untyped-call]
    ours = parameters(source)
    assert list(theirs) == list(ours)
    for name, one in ours.items():
        assert theirs[name]["help"] == one.help
        assert theirs[name]["inferred_type_name"] in ("None", one.type)


def sentence_of(content: bytes) -> str:
    """What a refusal says, '' if there is none. Any other exception goes through."""
    try:
        read_parameters(content)
    except ValueError as error:
        return str(error) or "an empty refusal\n"
    return ""


DEEP = [
    "-" * 60_000 + "1",
    "(" * 30_000,
    "x = " + "1+" * 30_000 + "1",
    "x = " + "a." * 30_000 + "b",
    "x = f" + "()" * 30_000,
    "x = " + "not " * 15_000 + "1",
    "x = " + "lambda:" * 9_000 + "1",
    "x: " + "a|" * 30_000 + "b = 1",
    "a=" * 30_000 + "1",
    ",".join(f"a{i}" for i in range(9_000)) + " = 1",
    "".join(f"a{i}=" for i in range(900)) + "'" + "y" * 50_000 + "'",
    "x = 0x" + "f" * 60_000,
    "x = '\\ud800'",
    "x = 1e999",
    "x = 1\x00",
    "\f\x0b\x1c\u2028x = 1",
    "x = {1: 2, **y}",
    "#" * 70_000,
    "\n".join(f"p{i} = {i}" for i in range(2_000)),
]


@pytest.mark.parametrize("source", DEEP, ids=lambda source: source[:20].encode("unicode_escape").decode())
@pytest.mark.covers("3:bad-not-a-notebook", "3:bad-long-name")
def test_a_hostile_cell_ends_soon_and_in_one_sentence(source: str) -> None:
    began = time.process_time()
    refusal = sentence_of(with_cell(source))
    assert "\n" not in refusal
    assert len(refusal) < 200
    if not refusal:
        defaults = [one.default for one in parameters(source).values()]
        json.dumps(defaults, allow_nan=False).encode()
    assert time.process_time() - began < 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
odd_cells = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown"]) | json_values},
    optional={
        "source": json_values | st.text(alphabet="abx=:#'\"[](){}, \n1.%!-", max_size=60),
        "metadata": json_values
        | st.just({"tags": ["parameters"]})
        | st.fixed_dictionaries({"tags": json_values}),
    },
)
odd_notebooks = st.fixed_dictionaries(
    {
        "nbformat": st.just(4) | json_values,
        "cells": st.lists(odd_cells | json_values, max_size=4) | json_values,
    },
    optional={
        "metadata": json_values
        | st.fixed_dictionaries({"kernelspec": json_values, "language_info": json_values}),
        "nbformat_minor": json_values,
    },
)


@pytest.mark.covers("3:bad-not-a-notebook", "3:bad-utf8", "3:bad-plain-sentence")
@given(
    st.binary() | json_values.map(json.dumps).map(str.encode) | odd_notebooks.map(json.dumps).map(str.encode)
)
def test_garbage_raises_nothing_but_value_error(content: bytes) -> None:
    assert "\n" not in sentence_of(content)


@given(st.text(alphabet="abxN=:#'\"[](){}, \n1.%!-\\\t|", max_size=200) | st.text())
def test_any_source_raises_nothing_but_value_error(source: str) -> None:
    assert "\n" not in sentence_of(with_cell(source))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}x", fullmatch=True), json_values, max_size=5))
def test_every_json_default_is_read_back(values: dict[str, Any]) -> None:
    import keyword
    import math

    def speakable(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(speakable, value))
        if isinstance(value, dict):
            return all(map(speakable, [*value, *value.values()]))
        if isinstance(value, float):
            return math.isfinite(value)
        return not isinstance(value, int) or abs(value) < 2**63

    values = {
        name: value for name, value in values.items() if speakable(value) and not keyword.iskeyword(name)
    }
    found = parameters("".join(f"{name} = {value!r}\n" for name, value in values.items()))
    assert {name: one.default for name, one in found.items()} == values


@pytest.mark.covers("3:bad-too-large")
def test_a_notebook_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(ValueError, match="at most"):
        read_notebook(b" " * (MAX_BYTES + 1))
